"""Names to plug-ins: our folders, a user's file (`./file.py:Class`), installed packages (entry points).

`card` reads a plug-in without importing it; `load` imports it. Two plug-ins of one name are an error that names both.
"""

import importlib.util
import sys
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any

from cab.errors import UsageError, unknown
from cab.paths import PACKAGE, beside
from cab.plugins import cards
from cab.plugins.cards import CONTRACTS, Card

KINDS = ("mechanism", "task", "meter")
_IMPORTABLE = {"mechanism": "cab.mechanisms", "task": "cab.tasks", "meter": "cab.meters"}


@dataclass(frozen=True)
class _Place:
    path: Path
    class_name: str | None  # None: the only class of the file
    module: str | None  # None: a user's file
    origin: str


def names(kind: str) -> list[str]:
    """Return every plug-in that can be asked for by a bare name."""
    return sorted(_places(kind))


def card(kind: str, name: str) -> Card:
    """Return the card of the plug-in called `name`; `UsageError` proposes the nearest name."""
    place = _place(kind, name)
    return cards.read(kind, name, place.path, place.class_name)


def cards_of(kind: str) -> dict[str, Card | UsageError]:
    """Return name -> card of every plug-in, or what is wrong with it, for listing."""
    found: dict[str, Card | UsageError] = {}
    for name in names(kind):
        try:
            found[name] = card(kind, name)
        except UsageError as error:
            found[name] = error
    cards.keep()
    return found


def load(kind: str, name: str) -> type[Any]:
    """Import the plug-in and return its class; `UsageError` says why it does not import."""
    place, about = _place(kind, name), card(kind, name)
    try:
        module = import_module(place.module) if place.module else _import_file(place.path)
        found: type[Any] = getattr(module, about.class_name)
    except Exception as error:
        raise UsageError(f"{kind} '{name}' ({place.path}) does not import: {type(error).__name__}: {error}") from error
    if CONTRACTS[kind] not in (base.__name__ for base in getattr(found, "__mro__", ())):
        raise UsageError(f"{kind} '{name}': the class {about.class_name} must derive from cab.{CONTRACTS[kind]}")
    return found


def is_file(name: str) -> bool:
    """Whether `name` means a user's file rather than a plug-in's name."""
    return ".py" in name or "/" in name


def _place(kind: str, name: str) -> _Place:
    if is_file(name):
        path, colon, class_name = name.partition(":")
        if not Path(path).is_file():
            raise UsageError(f"{kind} '{name}': there is no file {Path(path).absolute()}")
        return _Place(Path(path).resolve(), class_name or None, None, path)
    places = _places(kind)
    if name not in places:
        raise unknown(kind, name, places, f"A file of your own: {kind}=./file.py:Class")
    if len(places[name]) > 1:
        both = " and ".join(place.origin for place in places[name])
        raise UsageError(f"two plug-ins are called {kind} '{name}': {both}; rename or uninstall one")
    return places[name][0]


@lru_cache
def _places(kind: str) -> dict[str, list[_Place]]:
    folder = PACKAGE / "meters" if kind == "meter" else beside(f"{kind}s")
    found: dict[str, list[_Place]] = {}
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("_"):
            module = f"{_IMPORTABLE[kind]}.{path.stem}"
            found.setdefault(path.stem, []).append(_Place(path, None, module, str(path)))
    for point in installed(f"cab.{kind}s"):
        place = _Place(source_of(point), point.attr, point.module, f"{point.value} (an installed package)")
        found.setdefault(point.name, []).append(place)
    return found


def installed(group: str) -> EntryPoints:
    """Return what installed packages bring into a group."""
    found: EntryPoints = _entry_points().select(group=group)
    return found


@lru_cache
def _entry_points() -> Any:
    return entry_points()  # of every group, since each call reads the files of all packages


def source_of(point: EntryPoint) -> Path:
    """Find an entry point's file without importing its package (whose `__init__` may import anything)."""
    search: Any = None
    spec = None
    for part in point.module.split("."):
        # by the full name of this level only: PathFinder imports nothing
        spec = PathFinder.find_spec(part, search)
        if spec is None:
            break
        search = spec.submodule_search_locations
    if spec is None or not spec.origin:
        raise UsageError(f"the entry point {point.name} = {point.value} names a module that is not installed")
    return Path(spec.origin)


def _import_file(path: Path) -> Any:
    # named by its place, so that a second file of the same stem is another module
    name = f"cab_file_{sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # as if the file were run: what lies beside it can be imported
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module
