"""How much of the machine a timing used: operations and bytes per second, over the machine's measured peaks.

The roofline is that of Williams, Waterman and Patterson (2009): the time of a computation is at least that of its
operations at peak throughput, and at least that of its bytes at peak bandwidth.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = (
    "mechanism params backend pattern task level pass batch heads dim n m dtype device latency flops bytes_needed rate "
    "utilisation roofline bound peak_flops peak_bytes peak_time seed scale settings environment_id"
).split()
# with mechanism, backend, pattern, pass and dtype, the columns that are equal along a curve
OTHER_SETTINGS = (
    "params", "task", "level", "batch", "heads", "dim", "device", "seed", "scale", "settings", "environment_id",
)  # fmt: skip


def utilisation(rows: "DataFrame", peaks: Mapping[str, Mapping[str, Any]]) -> "DataFrame":
    """Return a table (COLUMNS) with one row for each latency whose FLOPs, bytes and peak rates are known.

    `peaks` gives, by environment id, `matmul` (dtype -> FLOP/s), `copy` (bytes/s) and `time` (when they were measured).
    `rate` is FLOP/s, `utilisation` and `roofline` are fractions, and `bound` is `compute` or `memory`.
    """
    import pandas as pd

    if not peaks:  # nothing to divide by
        return pd.DataFrame(columns=COLUMNS)
    ok_rows = rows[(rows["status"] == "ok") & rows["step"].isna()]
    counts: dict[str, dict[str, float]] = {}  # case id -> metric -> value
    for row in ok_rows[ok_rows["metric"].isin(("flops_needed", "flops_counted", "bytes_needed"))].to_dict("records"):
        counts.setdefault(row["case_id"], {})[row["metric"]] = float(row["value"])
    table_rows = []
    for row in ok_rows[ok_rows["metric"] == "latency"].to_dict("records"):
        peak, of_case = peaks.get(row["environment_id"]), counts.get(row["case_id"], {})
        peak_flops = peak["matmul"].get(_product_dtype(row)) if peak else None
        flops = of_case.get("flops_needed", of_case.get("flops_counted"))
        bytes_needed = of_case.get("bytes_needed")
        if peak is None or peak_flops is None or flops is None or bytes_needed is None:
            continue
        seconds = float(row["value"])
        compute_seconds, memory_seconds = flops / peak_flops, bytes_needed / peak["copy"]
        table_rows.append(
            {
                **{name: row[name] for name in COLUMNS if name in row},
                "latency": seconds,
                "flops": flops,
                "bytes_needed": bytes_needed,
                "rate": flops / seconds,
                "utilisation": compute_seconds / seconds,
                "roofline": max(compute_seconds, memory_seconds) / seconds,
                "bound": "compute" if compute_seconds >= memory_seconds else "memory",
                "peak_flops": peak_flops,
                "peak_bytes": peak["copy"],
                "peak_time": peak["time"],
            }
        )
    return pd.DataFrame(table_rows, columns=COLUMNS)


def _product_dtype(row: Mapping[Any, Any]) -> str:
    """Return the dtype in which a row's matrix products were computed. A training step's is its recipe's precision.

    `auto` is taken for bfloat16 on a GPU. On a GPU without bfloat16 the peak is then too high, so that the utilisation
    is too low rather than too high.
    """
    precision = json.loads(row["settings"]).get("training", {}).get("precision") if row["pass"] == "train" else None
    mixed = precision == "bfloat16" or (precision == "auto" and str(row["device"]).startswith("cuda"))
    return "bfloat16" if mixed else str(row["dtype"])


def longest_of_each_curve(table: "DataFrame") -> "DataFrame":
    """Return the rows of a utilisation table that have the greatest n, one for each mechanism, setting and pass."""
    curve = ["mechanism", "backend", "pattern", "pass", "dtype", *OTHER_SETTINGS]
    longest = table.loc[table.groupby(curve, sort=False, dropna=False)["n"].idxmax()]
    return longest.sort_values(["pattern", "pass", "utilisation"], ascending=[True, True, False])


def differing_columns(longest: "DataFrame") -> list[str]:
    """Name those of OTHER_SETTINGS that tell the rows of some mechanism apart."""
    by_mechanism = longest.groupby("mechanism")
    return [name for name in OTHER_SETTINGS if (by_mechanism[name].nunique(dropna=False) > 1).any()]
