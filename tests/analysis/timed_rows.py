"""Rows of one timed case, and the environment that they and its peaks are of."""

from typing import Any

import pandas as pd

from cab import environment
from cab.store.table import COLUMNS

IDENTITY: dict[str, Any] = {"host": "here", "device": "cpu", "threads": 1}
HERE = environment.environment_id(IDENTITY)


def rows(**values: float) -> pd.DataFrame:
    """Return one row a metric."""
    case = {
        "status": "ok",
        "case_id": "c",
        "environment_id": HERE,
        "dtype": "float32",
        "mechanism": "softmax",
        "n": 8,
        "m": 8,
        "pattern": "CS",
        "pass": "forward",
        "params": "{}",
        "backend": "eager",
        "level": "attend",
        "task": "speed",
    }
    return pd.DataFrame([{**case, "metric": name, "value": value} for name, value in values.items()], columns=COLUMNS)
