"""Renders a store: tables in the terminal, files for other tools and one HTML page. Computes nothing, imports no torch.

`cab.analysis.results.Results` holds the two tables of a store with what follows from them.
"""

from cab.analysis.pick import pick as pick_mechanism
from cab.analysis.readable import readable
from cab.analysis.results import Results
from cab.analysis.selection import FILTERS, filters_of, limits_of, metric_units, selected
from cab.analysis.utilisation import utilisation as utilisation_table
from cab.report.aggregates import print_aggregates
from cab.report.case_ids import short_ids
from cab.report.command import command
from cab.report.comparison import print_comparison
from cab.report.comparison_pictures import compare
from cab.report.derived_columns import derived_columns
from cab.report.efficiency import print_efficiency
from cab.report.evidence import Evidence
from cab.report.export import write_csv, write_parquet
from cab.report.formats import FORMATS, formatted
from cab.report.html_page import write_page
from cab.report.notes import BEYOND_LIMITS, EMPTY
from cab.report.pick import pick_json, print_pick
from cab.report.pictures import PICTURES, write_picture
from cab.report.pivot import pivot, print_pivot, written_pivot
from cab.report.store_difference import Difference, Pair, difference
from cab.report.tables import print_report
from cab.report.units import display_unit, format_number
from cab.report.utilisation import print_utilisation

__all__ = [
    "BEYOND_LIMITS",
    "EMPTY",
    "FILTERS",
    "FORMATS",
    "Difference",
    "Evidence",
    "Pair",
    "PICTURES",
    "Results",
    "command",
    "compare",
    "derived_columns",
    "difference",
    "display_unit",
    "filters_of",
    "format_number",
    "formatted",
    "limits_of",
    "metric_units",
    "pick_json",
    "pick_mechanism",
    "pivot",
    "print_aggregates",
    "print_comparison",
    "print_efficiency",
    "print_pick",
    "print_pivot",
    "print_report",
    "print_utilisation",
    "readable",
    "selected",
    "short_ids",
    "utilisation_table",
    "write_csv",
    "write_page",
    "write_parquet",
    "write_picture",
    "written_pivot",
]
