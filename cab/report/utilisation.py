"""How much of the machine a timing used: operations and bytes over time, beside what the machine can do at most."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from cab.report.units import number

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

COLUMNS = (
    "mechanism params backend pattern task level pass batch heads dim n m dtype device latency flops bytes_needed rate "
    "utilisation roofline bound peak_flops peak_bytes peak_time seed scale settings environment_id"
).split()
_UNSEEN = ("params", *"task level batch heads dim device seed scale settings environment_id".split())
ABOUT = (
    "rate: needed FLOPs (counted ones beyond the forward pass) a second; utilisation: of the best product of matrices; "
    "roofline: the time that needed FLOPs or needed bytes take at least, as a share of the time taken (above 100 %: "
    "what it reads lay in a cache)"
)


def utilisation(rows: "DataFrame", peaks: dict[str, dict[str, Any]]) -> "DataFrame":
    """Return a table: one line a timing of an environment whose peak is known and whose FLOPs are."""
    import pandas as pd

    good = rows[(rows["status"] == "ok") & rows["step"].isna()]
    of_case: dict[str, dict[str, float]] = {}
    for row in good[good["metric"].isin(("flops_needed", "flops_counted", "bytes_needed"))].to_dict("records"):
        of_case.setdefault(row["case_id"], {})[row["metric"]] = float(row["value"])
    found = []
    for row in good[good["metric"] == "latency"].to_dict("records"):
        peak, known = peaks.get(row["environment_id"]), of_case.get(row["case_id"], {})
        best = peak["matmul"].get(_multiplied(row)) if peak else None
        flops, needed = known.get("flops_needed", known.get("flops_counted")), known.get("bytes_needed")
        if peak is None or best is None or flops is None or needed is None:
            continue
        seconds, computing, moving = float(row["value"]), flops / best, needed / peak["copy"]
        line = {name: row[name] for name in COLUMNS if name in row}
        line |= {"latency": seconds, "flops": flops, "bytes_needed": needed, "rate": flops / seconds}
        line |= {"utilisation": computing / seconds, "roofline": max(computing, moving) / seconds}
        line |= {"bound": "compute" if computing >= moving else "memory"}
        line |= {"peak_flops": best, "peak_bytes": peak["copy"], "peak_time": peak["time"]}
        found.append(line)
    return pd.DataFrame(found, columns=COLUMNS)


def _multiplied(row: Mapping[Any, Any]) -> str:
    """Return the dtype of a row's products: a training step computes them in the recipe's precision.

    `auto` is bfloat16 on a GPU; one that has none is slower than this peak, and its utilisation too low, not too high.
    """
    precision = json.loads(row["settings"]).get("training", {}).get("precision") if row["pass"] == "train" else None
    mixed = precision == "bfloat16" or (precision == "auto" and str(row["device"]).startswith("cuda"))
    return "bfloat16" if mixed else str(row["dtype"])


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
