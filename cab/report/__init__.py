"""What a store says: leaderboards, tables in the terminal, tidy files and one page. Imports no torch.

`rows` and `environments` are the two tables of a store, as `cab.store.table` makes them.
"""

from cab.report.board import Board, Cell, Line, Metric
from cab.report.files import write_csv, write_parquet
from cab.report.page import write_page
from cab.report.ranking import leaderboard
from cab.report.terminal import print_report
from cab.report.utilisation import print_utilisation, utilisation
from cab.report.winning import print_winning, winning

__all__ = [
    "Board",
    "Cell",
    "Line",
    "Metric",
    "leaderboard",
    "print_report",
    "print_utilisation",
    "print_winning",
    "utilisation",
    "winning",
    "write_csv",
    "write_page",
    "write_parquet",
]
