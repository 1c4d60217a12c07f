"""The job of a bundle, started as `python -m cab.runner.bundle_job FOLDER NUMBER`.

The fork server is started before anything else is imported, so that it loads torch meanwhile.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cab.runner.fork_client import ForkClient

COMPILING = ("compile", "flex")  # backends for which a child imports PyTorch's compiler
FEW = 30  # children: huge pages take half a second of the processor to make, and save each child about 15 ms


def run_bundle(folder: Path, number: int) -> None:
    """Carry out a bundle; what cannot be measured on this machine at all is said in its `.done` file."""
    with ForkClient(**_needs(folder, number)) as client:
        client.start()
        from cab.runner.bundle_work import carry_out  # takes half a second

        carry_out(folder, number, client)


def _needs(folder: Path, number: int) -> dict[str, Any]:
    """Return what the fork server of a bundle need not prepare, for `ForkClient`; nothing where it cannot be read.

    The control's softmax is always prepared. Who reads the bundle next says what is wrong with it.
    """
    try:
        bundle = json.loads((folder / f"{number}.bundle").read_bytes())
        measurements = bundle["measurements"]
        cases = [each["case"] for each in measurements]
        children = sum(each["processes"] + each["more_processes"] for each in measurements)
        needs = {"few": not bundle["laws_only"] and children < FEW}
        is_timed = all(each["hosted"] for each in measurements)  # a child that counts FLOPs imports the compiler
        if is_timed and not bundle["laws_only"] and not any(map(_compiles_or_trains, cases)):
            needs["eager"] = sorted({"softmax", *(case["mechanism"] for case in cases)})
        return needs
    except (AttributeError, OSError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def _compiles_or_trains(case: dict[str, Any]) -> bool:
    """Whether a child of a case, as its bundle writes it, imports PyTorch's compiler: an optimiser does, too."""
    backends = (case["backend"], case["settings"].get("baseline_backend"))
    return case["pass"] == "train" or any(backend in COMPILING for backend in backends)


if __name__ == "__main__":
    run_bundle(Path(sys.argv[1]), int(sys.argv[2]))
