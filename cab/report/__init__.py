"""Renders a store: tables in the terminal, files for other tools and one HTML page. Computes nothing, imports no torch.

`cab.analysis.results.Results` holds the two tables of a store with what follows from them.
"""

from cab.analysis.results import Results
from cab.report.efficiency import print_efficiency
from cab.report.export import write_csv, write_parquet
from cab.report.html_page import write_page
from cab.report.tables import print_report
from cab.report.utilisation import print_utilisation

__all__ = [
    "Results",
    "print_efficiency",
    "print_report",
    "print_utilisation",
    "write_csv",
    "write_page",
    "write_parquet",
]
