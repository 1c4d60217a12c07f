"""How much of the machine each timing used, in the terminal."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cab.analysis.units import number

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

_UNSEEN = ("params", *"task level batch heads dim device seed scale settings environment_id".split())
ABOUT = (
    "rate: needed FLOPs (counted ones beyond the forward pass) a second; utilisation: of the best product of matrices; "
    "roofline: the time that needed FLOPs or needed bytes take at least, as a share of the time taken (above 100 %: "
    "what it reads lay in a cache)"
)


def print_utilisation(table: "DataFrame", console: "Console") -> None:
    """Print the longest length of each mechanism, pattern and pass; nothing where no peak is known."""
    if not len(table):
        return
    shown = Table(box=None, pad_edge=False, title="\nUse of the machine", title_style="bold", title_justify="left")
    for column in ("mechanism", "pattern", "pass", "n", "dtype", "GFLOP/s", "utilisation", "roofline", "bound by"):
        shown.add_column(column, justify="right" if column in ("n", "GFLOP/s", "utilisation", "roofline") else "left")
    curve = ["mechanism", "backend", "pattern", "pass", "dtype", *_UNSEEN]
    longest = table.loc[table.groupby(curve, sort=False, dropna=False)["n"].idxmax()]
    differing = [
        name for name in _UNSEEN if (longest.groupby("mechanism")[name].nunique(dropna=False) > 1).any()
    ]  # what tells lines of one mechanism apart
    if differing:
        shown.add_column("of", overflow="fold")
    for row in longest.sort_values(["pattern", "pass", "utilisation"], ascending=[True, True, False]).to_dict(
        "records"
    ):
        name = row["mechanism"] + ("" if row["backend"] == "eager" else f" {row['backend']}")
        cells = [name, row["pattern"], row["pass"], f"{row['n']:,}", row["dtype"], number(row["rate"] / 1e9)]
        cells += [f"{row['utilisation']:.1%}", f"{row['roofline']:.1%}", row["bound"]]
        cells += [", ".join(f"{of.removesuffix('_id')} {row[of]}" for of in differing)] * bool(differing)
        shown.add_row(*map(Text, cells))
    console.print(shown)
    for line in table.drop_duplicates(["environment_id", "dtype"]).to_dict("records"):
        rates = f"{number(line['peak_flops'] / 1e9)} GFLOP/s ({line['dtype']}), {number(line['peak_bytes'] / 1e9)} GB/s"
        console.print(Text(f"  peak, measured {line['peak_time']} on {line['environment_id']}: {rates}", style="dim"))
    console.print(Text(f"  {ABOUT}", style="dim"))
