"""What a store says, rendered: tables in the terminal, tidy files and one page. Imports no torch.

`rows` and `environments` are the two tables of a store, as `cab.store.table` makes them.
"""

from cab.report.export import write_csv, write_parquet
from cab.report.page import write_page
from cab.report.tables import print_report
from cab.report.utilisation import print_utilisation
from cab.report.winning import print_winning

__all__ = ["print_report", "print_utilisation", "print_winning", "write_csv", "write_page", "write_parquet"]
