"""Controls: how fast a node ran one small fixed case before and after each bundle of timings.

A bundle on a cluster writes `controls/<run>-<bundle>.json` into the store, and each process that it measures names the
bundle in its entry. What follows of the times is in `cab.store.node_exclusion`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from cab.contracts.case import canonical
from cab.paths import write_whole

FOLDER = "controls"  # of a store


@dataclass(frozen=True)
class Control:
    """What the control case took on the node of one bundle."""

    run_id: str
    number: int  # of the bundle
    environment: Mapping[str, Any]  # the identity of the node, as a timing there has it
    before: float | None = None  # seconds, before the bundle; None where it could not be timed
    after: float | None = None  # None also where the bundle's job was lost

    @property
    def bundle(self) -> str:
        """Name the bundle, as the processes of its entries do."""
        return f"{self.run_id}-{self.number}"

    @property
    def host(self) -> str:
        """Name the node."""
        return str(self.environment.get("host"))

    @property
    def drift(self) -> float | None:
        """The seconds after the bundle as a multiple of those before it; None where one of them is missing."""
        return self.after / self.before if self.before and self.after else None


def keep(store: Path, control: Control) -> None:
    """Write a control into a store, replacing what the same bundle wrote before."""
    write_whole(store / FOLDER / f"{control.bundle}.json", json.dumps(asdict(control)))


def load(store: Path) -> list[Control]:
    """Return the controls of a store; files that cannot be read are left out, as their bundles had none."""
    controls = []
    for path in sorted((store / FOLDER).glob("*.json")):
        try:
            control = Control(**json.loads(path.read_bytes()))
            if _is_sound(control) and control.bundle == path.stem:
                controls.append(control)
        except (OSError, TypeError, ValueError, RecursionError):
            continue
    return controls


def _is_sound(control: Control) -> bool:
    """Whether the values are of their types; `ValueError` where JSON cannot hold the environment, as with NaN."""
    canonical(control.environment)
    seconds = [each for each in (control.before, control.after) if each is not None]
    return (
        isinstance(control.run_id, str)
        and isinstance(control.environment, dict)
        and all(isinstance(each, float) and 0 < each < inf for each in seconds)
    )
