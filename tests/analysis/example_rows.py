"""Made-up rows of a store, and the boards of them."""

from typing import Any

import pandas as pd

from cab.analysis.leaderboard import Board, Line
from cab.analysis.ranking import leaderboard
from cab.contracts.case import canonical, digest
from cab.store.table import COLUMNS

UNITS = {  # metric -> unit, higher is better
    "accuracy": ("fraction", True),
    "f1": ("fraction", True),
    "latency": ("seconds", False),
    "peak_allocated": ("bytes", False),
    "peak_resident": ("bytes", False),
    "decode_state": ("bytes", False),
    "bytes_moved": ("bytes", False),
    "bytes_needed": ("bytes", None),
    "flops": ("FLOP", False),
    "flops_needed": ("FLOP", None),
    "parameters": ("parameters", None),
    "corrupted_error": ("", False),
}
CASE: dict[str, Any] = {
    "mechanism": "softmax",
    "pattern": "NS",
    "task": "speed",
    "level": "attend",
    "pass": "forward",
    "batch": 2,
    "heads": 4,
    "dim": 64,
    "n": 512,
    "m": 512,
    "dtype": "float32",
    "device": "cpu",
    "backend": "eager",
    "seed": 0,
    "scale": "quick",
}
# the types of a store's table; other columns are strings
DTYPES = {
    **dict.fromkeys(("value", "ci_low", "ci_high"), "float64"),
    **dict.fromkeys(("step", "count", "processes", "task_version"), "Int64"),
    **dict.fromkeys(("converged", "higher_is_better"), "boolean"),
    **dict.fromkeys(("schema", "batch", "heads", "dim", "n", "m", "seed"), "int64"),
}
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)


def case_rows(
    metrics: dict[str, Any], params: Any = None, settings: Any = None, **changes: Any
) -> list[dict[str, Any]]:
    """Make the rows of one case: metric -> value, (value, low, high) or (status, reason).

    `changes` are other columns. `converged` is of latency alone.
    """
    question = {**CASE, "params": canonical(params or {}), "settings": canonical(settings or {})}
    question |= {name: changes.pop(name) for name in list(changes) if name in question}
    rows = []
    for name, answer in metrics.items():
        unit, higher_is_better = UNITS[name]
        row: dict[str, Any] = {
            **dict.fromkeys(COLUMNS),
            **question,
            "metric": name,
            "unit": unit,
            "higher_is_better": higher_is_better,
            "schema": 1,
            "case_id": digest(question),
            "run_id": "r1",
            "time": "1",
            "status": "ok",
            "reason": "",
            "grade": "native",
            "task_version": 1,
            "environment_id": "one",
            "data_source": "",
            "protocol": "",
            "split": "test" if name == "accuracy" else "",
            "commit": "",
        }
        if isinstance(answer, tuple) and isinstance(answer[0], str):
            row["status"], row["reason"] = answer
        else:
            row["value"], row["ci_low"], row["ci_high"] = answer if isinstance(answer, tuple) else (answer, None, None)
            row["count"] = 100
            row["processes"] = 5 if name == "latency" else 1
            row["converged"] = True if name == "latency" else None
        rows.append(row | {key: value for key, value in changes.items() if key != "converged" or name == "latency"})
    return rows


def training_rows(mechanism: str, accuracy: Any, **changes: Any) -> list[dict[str, Any]]:
    """Make the rows of a training case."""
    training = {"task": "lra_text", "level": "model", "pass": "train", "data_source": "aclImdb", **changes}
    return case_rows({"accuracy": accuracy}, mechanism=mechanism, **training)


def with_columns(rows: list[dict[str, Any]], **columns: Any) -> list[dict[str, Any]]:
    """Return rows in which some columns have other values."""
    return [{**row, **columns} for row in rows]


def table_of(*cases: list[dict[str, Any]]) -> pd.DataFrame:
    """Put the rows of cases into a table with the types of a store's."""
    table = pd.DataFrame([row for rows in cases for row in rows], columns=COLUMNS)
    return table.astype({name: DTYPES.get(name, "string") for name in COLUMNS})


def environments(*names: str) -> pd.DataFrame:
    """Make environments, each on a host of its own."""
    facts = {"cpu": "AMD EPYC", "gpu": None, "threads": 2, "allocator": "glibc", "python": "3.11.7", "torch": "2.13.0"}
    return pd.DataFrame([{"environment_id": name, "host": f"host-{name}", **facts} for name in names or ("one",)])


def board_of(*cases: list[dict[str, Any]], environment_table: pd.DataFrame | None = None) -> Board:
    """Return the only board of some cases."""
    (board,) = leaderboard(table_of(*cases), environments() if environment_table is None else environment_table)
    return board


def lines_by_label(board: Board) -> dict[str, Line]:
    """Return a board's lines by their labels."""
    return {line.label: line for line in board.lines}


def cost_rows(costs: dict[tuple[str, str], list[float]], metric: str = "latency") -> pd.DataFrame:
    """Make a table of (mechanism, backend) -> its cost at each of LENGTHS, without intervals."""
    rows = []
    for (mechanism, backend), values in costs.items():
        for n, value in zip(LENGTHS, values, strict=False):
            row = {
                "mechanism": mechanism,
                "params": "{}",
                "backend": backend,
                "n": n,
                "m": n,
                "metric": metric,
                "pattern": "NS",
                "pass": "forward",
                "status": "ok",
                "value": value,
                "settings": "{}",
            }
            rows.append(dict.fromkeys(COLUMNS) | row)
    return pd.DataFrame(rows, columns=COLUMNS)
