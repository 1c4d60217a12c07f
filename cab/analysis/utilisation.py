"""How much of the machine a timing used: operations and bytes over time, beside what the machine can do at most."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = (
    "mechanism params backend pattern task level pass batch heads dim n m dtype device latency flops bytes_needed rate "
    "utilisation roofline bound peak_flops peak_bytes peak_time seed scale settings environment_id"
).split()


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
