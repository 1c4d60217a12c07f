"""`cab`: which attention mechanism, for which pattern, at which length, and at what cost.

Importing this package imports neither torch nor pandas; each name below is fetched when it is first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.public_names import PUBLIC_NAMES

# In a checkout, mechanisms/, tasks/, conf/ and cli.py lie beside this folder; in the wheel, inside it.
if not (Path(__file__).parent / "mechanisms").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cab.api import environments, load, mechanism, run
    from cab.contracts.mechanism import Mechanism
    from cab.contracts.meter import Meter, Reading
    from cab.contracts.pattern import Pattern
    from cab.contracts.slot import Slot
    from cab.contracts.task import Batch, Missing, Source, Task
    from cab.contracts.wrapper import Wrapper
    from cab.errors import Unsupported, UsageError

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
    "Wrapper",
    "__version__",
    "environments",
    "load",
    "mechanism",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC_NAMES:
        raise AttributeError(f"module 'cab' has no attribute {name!r}")
    return getattr(import_module(PUBLIC_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
