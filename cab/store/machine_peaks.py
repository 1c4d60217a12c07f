"""What machines can do at most, as `cab doctor --peak` measured it: one file an environment, beside the results."""

import json
import time
from pathlib import Path
from typing import Any

from cab import environment
from cab.contracts.messages import PeakAnswer
from cab.paths import write_whole


def keep(results: Path, identity: dict[str, Any], peaks: PeakAnswer) -> Path:
    """Keep the rates of an environment, the one of its timing rows; returns the file."""
    name = environment.environment_id(identity)
    path = results / "peaks" / f"{name}.json"
    content = {
        "environment_id": name,
        "environment": identity,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
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
