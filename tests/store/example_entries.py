"""Entries of a store as their files hold them, whatever is wrong with them."""

import json
from typing import Any

from cab.paths import write_whole
from cab.planning.plan import plan
from cab.store.store import Store


def entry(
    metric: str = "latency", value: float = 1.0, time: str = "2026-01-01T00:00:00Z", **changes: Any
) -> dict[str, Any]:
    """Return an entry with one metric of the same name as its meter."""
    case = plan(["task=speed", "mechanism=none", "seq_len=16", f"meters=[{metric}]"]).cases[0]
    result = {"status": "ok", "reason": "", "unit": "s", "higher_is_better": False, "value": value}
    return {
        "schema": 1,
        "case": case.question(),
        "case_id": case.id,
        "meter": metric,
        "key": "k1",
        "grade": "native",
        "task_version": 1,
        "hosted": True,
        "environment": {"host": "a"},
        "environment_id": "e1",
        "run_id": "r",
        "commit": "c",
        "time": time,
        "metrics": {metric: result},
        "processes": [],
        **changes,
    }


def write(store: Store, content: dict[str, Any]) -> None:
    """Put an entry into the store as a file, whatever it holds."""
    write_whole(store.path(f"{content['case_id']}-{content['key']}"), json.dumps(content))
