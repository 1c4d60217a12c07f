"""Renders a store: tables in the terminal, files for other tools and one HTML page. Computes nothing, imports no torch.

`rows` and `environments` are the two tables of a store, as `cab.store.table` makes them.
"""

from cab.report.efficiency import print_efficiency
from cab.report.export import write_csv, write_parquet
from cab.report.html_page import write_page
from cab.report.tables import print_report
from cab.report.utilisation import print_utilisation

__all__ = ["print_efficiency", "print_report", "print_utilisation", "write_csv", "write_page", "write_parquet"]
