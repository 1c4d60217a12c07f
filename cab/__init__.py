"""`cab`: which attention mechanism, for which pattern, at which length, and at what cost.

Importing this package imports neither torch nor pandas; each name below is fetched when it is first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a checkout, mechanisms/, tasks/, conf/ and cli.py lie beside this folder; in the wheel, inside it.
if not (Path(__file__).parent / "mechanisms").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cab.api import load, mechanism, run
    from cab.contracts.mechanism import Mechanism
    from cab.contracts.meter import Meter, Reading
    from cab.contracts.pattern import Pattern
    from cab.contracts.slot import Slot
    from cab.contracts.task import Batch, Missing, Source, Task
    from cab.errors import Unsupported, UsageError

# No public function may have the name of a submodule: importing the submodule would put it in the function's place.
_HOME = {
    "Batch": "cab.contracts.task",
    "Mechanism": "cab.contracts.mechanism",
    "Meter": "cab.contracts.meter",
    "Missing": "cab.contracts.task",
    "Pattern": "cab.contracts.pattern",
    "Reading": "cab.contracts.meter",
    "Slot": "cab.contracts.slot",
    "Source": "cab.contracts.task",
    "Task": "cab.contracts.task",
    "Unsupported": "cab.errors",
    "UsageError": "cab.errors",
    "load": "cab.api",
    "mechanism": "cab.api",
    "run": "cab.api",
}
__all__ = [
    "Batch",
    "Mechanism",
    "Meter",
    "Missing",
    "Pattern",
    "Reading",
    "Slot",
    "Source",
    "Task",
    "Unsupported",
    "UsageError",
    "__version__",
    "load",
    "mechanism",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cab' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
