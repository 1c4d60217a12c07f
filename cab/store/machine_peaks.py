"""What machines can do at most, as `cab doctor --peak` measured it: one file an environment, beside the results."""

import json
from pathlib import Path
from typing import Any

from cab import environment
from cab.contracts.messages import PeakAnswer
from cab.paths import write_whole
from cab.store.store import now


def keep(results: Path, identity: dict[str, Any], peaks: PeakAnswer) -> Path:
    """Keep the rates of the environment that timings are rows of; return the file."""
    environment_id = environment.environment_id(identity)
    path = results / "peaks" / f"{environment_id}.json"
    content = {
        "environment_id": environment_id,
        "environment": identity,
        "time": now(),
        "matmul": dict(peaks.matmul),
        "copy": peaks.copy,
    }
    write_whole(path, json.dumps(content))
    return path


def load(results: Path) -> dict[str, dict[str, Any]]:
    """Return environment id -> rates and when they were measured; what cannot be read is left out."""
    rates = {}
    for path in sorted((results / "peaks").glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
            rates[str(content["environment_id"])] = {key: content[key] for key in ("time", "matmul", "copy")}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return rates
