"""How much of the machine each timing used, in the terminal."""

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from cab.analysis.utilisation import differing_columns, longest_of_each_curve
from cab.report.units import format_number

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

ABOUT = (
    "rate: needed FLOPs (beyond the forward pass, counted FLOPs) per second; utilisation: rate over the peak rate of "
    "matrix products; roofline: the time of the needed FLOPs or of the needed bytes at peak rate, the longer one, over "
    "the latency (above 100 %: the inputs were in a cache)"
)
_COLUMNS = ("mechanism", "pattern", "pass", "n", "dtype", "GFLOP/s", "utilisation", "roofline", "bound by")
_RIGHT_ALIGNED = ("n", "GFLOP/s", "utilisation", "roofline")


def print_utilisation(utilisation: "DataFrame", console: "Console") -> None:
    """Print the greatest length of each mechanism, pattern and pass; nothing where no peak is known."""
    if not len(utilisation):
        return
    table = Table(box=None, pad_edge=False, title="\nUse of the machine", title_style="bold", title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in _RIGHT_ALIGNED else "left")
    longest = longest_of_each_curve(utilisation)
    differing = differing_columns(longest)
    if differing:
        table.add_column("of", overflow="fold")
    for row in longest.to_dict("records"):
        table.add_row(*map(Text, _cells(row, differing)))
    console.print(table)
    for row in utilisation.drop_duplicates(["environment_id", "dtype"]).to_dict("records"):
        flops = f"{format_number(row['peak_flops'] / 1e9)} GFLOP/s ({row['dtype']})"
        bandwidth = f"{format_number(row['peak_bytes'] / 1e9)} GB/s"
        peak = f"  peak, measured {row['peak_time']} on {row['environment_id']}: {flops}, {bandwidth}"
        console.print(Text(peak, style="dim"))
    console.print(Text(f"  {ABOUT}", style="dim"))


def _cells(row: dict[Any, Any], differing: list[str]) -> list[str]:
    cells = [
        row["mechanism"] if row["backend"] == "eager" else f"{row['mechanism']} {row['backend']}",
        row["pattern"],
        row["pass"],
        f"{row['n']:,}",
        row["dtype"],
        format_number(row["rate"] / 1e9),
        f"{row['utilisation']:.1%}",
        f"{row['roofline']:.1%}",
        row["bound"],
    ]
    if differing:
        cells.append(", ".join(f"{name.removesuffix('_id')} {row[name]}" for name in differing))
    return cells
