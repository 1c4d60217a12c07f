"""Names to plug-ins: those of our folders, of a user's file (`./file.py:Class`), of installed packages (entry points).

`card` reads a plug-in without importing it; `load` imports it. Two plug-ins of one name are an error that names both.
"""

import importlib.util
import sys
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any

from cab.errors import UsageError, unknown
from cab.paths import PACKAGE, beside
from cab.plugins import cards, fingerprint
from cab.plugins.cards import CONTRACTS, Card

KINDS = ("mechanism", "task", "meter")
_helpers: dict[str, tuple[Path, bytes]] = {}  # modules beside users' files that these have imported, with their source
_PACKAGES = {"mechanism": "cab.mechanisms", "task": "cab.tasks", "meter": "cab.meters"}


@dataclass(frozen=True)
class _Source:
    """Where the source of a plug-in lies, and how it is imported."""

    class_name: str | None  # None: the only plug-in of the file
    module: str | None  # None: a user's file, which is imported by its path
    origin: str  # for messages
    file: Path | None = None
    point: EntryPoint | None = None  # of an installed package, whose file is looked for when it is needed

    @property
    def path(self) -> Path:
        """The file; `UsageError` where an installed package's is not there."""
        if self.file is not None:
            return self.file
        assert self.point is not None
        return source_of(self.point)


def names(kind: str) -> list[str]:
    """Return every plug-in that can be asked for by a bare name."""
    return sorted(_sources(kind))


def card(kind: str, name: str) -> Card:
    """Return the card of the plug-in called `name`; `UsageError` proposes the nearest name."""
    source = _source(kind, name)
    return cards.read(kind, name, source.path, source.class_name)


def cards_of(kind: str) -> dict[str, Card | UsageError]:
    """Return name -> card of every plug-in, or what is wrong with it, for listing."""
    by_name: dict[str, Card | UsageError] = {}
    for name in names(kind):
        try:
            by_name[name] = card(kind, name)
        except UsageError as error:
            by_name[name] = error
    cards.keep()
    return by_name


def load(kind: str, name: str) -> type[Any]:
    """Import the plug-in and return its class; `UsageError` says why it does not import."""
    source, class_name = _source(kind, name), card(kind, name).class_name
    try:
        module = import_module(source.module) if source.module else _import_file(source.path)
        cls: type[Any] = getattr(module, class_name)
    except (Exception, SystemExit) as error:  # a file that calls `sys.exit` would end the command, with its exit code
        raise UsageError(f"{kind} '{name}' ({source.path}) does not import: {type(error).__name__}: {error}") from error
    ours = (base.__name__ for base in getattr(cls, "__mro__", ()) if base.__module__.split(".")[0] == "cab")
    if CONTRACTS[kind] not in ours:
        raise UsageError(f"{kind} '{name}': the class {class_name} must derive from cab.{CONTRACTS[kind]}")
    return cls


def is_file(name: str) -> bool:
    """Whether `name` means a user's file rather than a plug-in's name."""
    return ".py" in name or "/" in name


def _source(kind: str, name: str) -> _Source:
    """Return the source of the plug-in called `name`; `UsageError` where there is none, or more than one."""
    if is_file(name):
        path, _, class_name = name.partition(":")
        if not Path(path).is_file():
            raise UsageError(f"{kind} '{name}': there is no file {Path(path).absolute()}")
        return _Source(class_name or None, None, path, Path(path).resolve())
    by_name = _sources(kind)
    if name not in by_name:
        raise unknown(kind, name, by_name, f"A file of your own: {kind}=./file.py:Class")
    first, *others = by_name[name]
    if others:
        both = " and ".join(source.origin for source in by_name[name])
        raise UsageError(f"two plug-ins are called {kind} '{name}': {both}; rename or uninstall one")
    return first


@lru_cache
def _sources(kind: str) -> dict[str, list[_Source]]:
    """Return name -> sources of the plug-ins of our folders and of installed packages."""
    folder = PACKAGE / "meters" if kind == "meter" else beside(f"{kind}s")
    by_name: dict[str, list[_Source]] = {}
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("_"):
            source = _Source(None, f"{_PACKAGES[kind]}.{path.stem}", str(path), path)
            by_name.setdefault(path.stem, []).append(source)
    for point in installed(f"cab.{kind}s"):
        # what is wrong with one package costs only who names it: its file is not looked for here
        source = _Source(point.attr, point.module, f"{point.value} (an installed package)", point=point)
        by_name.setdefault(point.name, []).append(source)
    return by_name


def installed(group: str) -> EntryPoints:
    """Return the entry points of installed packages in a group."""
    points: EntryPoints = _entry_points().select(group=group)
    return points


@lru_cache
def _entry_points() -> Any:
    return entry_points()  # of all groups at once: each call reads the files of every installed package


def source_of(point: EntryPoint) -> Path:
    """Find an entry point's file without importing its package (whose `__init__` may import anything)."""
    search_path: Any = None
    spec, name = None, ""
    for part in point.module.split("."):  # a level at a time: finders import nothing
        name = f"{name}.{part}".lstrip(".")
        spec = _find_spec(name, search_path)
        if spec is None:
            break
        search_path = spec.submodule_search_locations
    if spec is None or not spec.origin:
        raise UsageError(f"the entry point {point.name} = {point.value} names a module that is not installed")
    return Path(spec.origin)


def _find_spec(name: str, search_path: Any) -> ModuleSpec | None:
    """Ask each finder for a module: an editable installation has one of its own."""
    for finder in sys.meta_path:
        if (spec := finder.find_spec(name, search_path)) is not None:
            return spec
    return None


def _import_file(path: Path) -> Any:
    # named by its path and by the content of itself and of what it imports: a second file of the same stem, or the file
    # as it is after an edit, is another
    content = path.read_bytes() + fingerprint.of(path).encode()
    name = f"cab_file_{sha256(str(path).encode() + content).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    _forget_edited_helpers()
    _refuse_helpers_of_others(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # as if the file were run: what lies beside it can be imported
    sys.path.insert(0, str(path.parent))
    before = set(sys.modules)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
        for helper in set(sys.modules) - before:
            file = getattr(sys.modules[helper], "__file__", None)
            if "." not in helper and file and path.parent in Path(file).parents:
                _helpers[helper] = Path(file), Path(file).read_bytes()
    return module


def _forget_edited_helpers() -> None:
    """Let a module beside a user's file that was edited, or is gone, be imported as it is now."""
    for name, (file, source) in list(_helpers.items()):
        if not file.is_file() or file.read_bytes() != source:
            for module in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
                del sys.modules[module]
            del _helpers[name]


def _refuse_helpers_of_others(folder: Path) -> None:
    """Raise `UsageError` where a module of this folder has the name of another one that was imported elsewhere.

    Python has one module of a name. The second plug-in would compute with the first one's.
    """
    for name, (held, source) in _helpers.items():
        for own in (folder / f"{name}.py", folder / name / "__init__.py"):
            if own.is_file() and own.resolve() != held.resolve() and own.read_bytes() != source:
                raise UsageError(
                    f"two modules are called {name}: {held}, which is in use, and {own}. Python has one of a name in a "
                    "process: rename one of them, or put it into the plug-in's own file"
                )
