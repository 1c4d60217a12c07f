"""The fingerprint of a plug-in: its source and what it imports from `cab`, by their syntax trees.

A comment, a docstring or a blank line changes nothing; a changed constant in `cab/ops` changes every mechanism that
imports it.
A task's data have a fingerprint too: where other data lie in the folder, a kept number is not the answer.
"""

import ast
import hashlib
import os
import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

from cab.environment import installed
from cab.errors import UsageError
from cab.paths import PACKAGE, beside
from cab.public_names import PUBLIC_NAMES

_PLUGINS = ("mechanisms", "tasks")


def of(*paths: str | Path) -> str:
    """Hash the files, everything of `cab` that they import, directly or not, and what users' files import.

    Of modules and packages beside a user's file the source counts, of installed packages the version.
    """
    trees: dict[Path, str] = {}
    versions: set[str] = set()
    queue = [(path := Path(given).resolve(), path.parent) for given in paths]
    while queue:
        path, root = queue.pop()
        if path not in trees:
            trees[path], imports, packages = _read(path, root, *_stamp(path))
            queue += [(found, root) for found in imports]
            versions |= {f"{name} {version}" for name in packages if (version := _version(name))}
    # by content alone: the same source in another folder has the same fingerprint
    own = sorted(trees.values()) + sorted(versions)
    return hashlib.sha256("\n".join(own).encode()).hexdigest()[:16]


def of_data(folder: Path, names: tuple[str, ...]) -> str:
    """Hash the names and sizes of the files that lie under `names` in a data folder; "" where there are none."""
    files: list[str] = []
    for name in names:
        for inside, _, found in os.walk(folder / name):
            within = inside.removeprefix(str(folder))
            files += [f"{within}/{file} {_size(os.path.join(inside, file))}" for file in found]
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:16] if files else ""


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a link to nothing: who reads it will say so
        return -1


def _stamp(path: Path) -> tuple[int, ...]:
    """Tell one state of a file from the next: a notebook's process lives through many."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


@cache
def _read(path: Path, root: Path, *_: int) -> tuple[str, tuple[Path, ...], frozenset[str]]:
    """Return the hash of a file, the files that it imports, and the packages that a user's file imports.

    `root` is the folder of the plug-in that all this began with: its packages are named from there.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path} is not valid Python: {error}") from error
    found: list[Path] = []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # relative: from the file's own folder, or one above it
                folder = path.parents[node.level - 1]
                inside = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
                found += [p for name in inside for p in _resolve_in(folder, name) if p != path]
            else:
                names += [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    found += [p for name in names for p in _resolve(name, path, root)]
    packages = {name.split(".")[0] for name in names} - {"cab", *sys.stdlib_module_names} if _is_users(path) else ()
    return hashlib.sha256(_dump(tree).encode()).hexdigest(), tuple(dict.fromkeys(found)), frozenset(packages)


def _dump(tree: ast.Module) -> str:
    """Write a syntax tree as text, without its docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return ast.dump(tree)


@lru_cache
def _version(package: str) -> str | None:
    """Return the version of the installed package that is imported by this name."""
    of_name = _distributions().get(package, ()) if installed(package) is None else (package,)
    return next((version for name in of_name if (version := installed(name))), None)


@lru_cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _resolve(name: str, importer: Path, root: Path) -> list[Path]:
    """Return the file of `cab.x.y` or `cab.x.y.name`; of another package nothing, of a neighbour its file."""
    parts = name.split(".")
    if parts[0] != "cab":
        # only of a user's file, whose helpers lie beside it; a plug-in of ours imports no neighbour
        folders = dict.fromkeys((importer.parent, root)) if _is_users(importer) else ()
        return [p for folder in folders for p in _resolve_in(folder, name) if p != importer]
    if len(parts) == 2 and parts[1] in PUBLIC_NAMES:
        parts = PUBLIC_NAMES[parts[1]].split(".")
    while len(parts) > 1:
        top = beside(parts[1]).parent if parts[1] in _PLUGINS else PACKAGE
        place = top.joinpath(*parts[1:])
        for candidate in (place.with_suffix(".py"), place / "__init__.py"):
            if candidate.is_file():
                return [candidate]
        parts.pop()
    return []


def _is_users(path: Path) -> bool:
    return not any(path.is_relative_to(folder) for folder in (PACKAGE, *map(beside, _PLUGINS)))


def _resolve_in(folder: Path, name: str) -> list[Path]:
    """Return the files of `x`, `x.y` or `x.y.name` in a folder: a module, or a package with its `__init__`s."""
    found: list[Path] = []
    for part in name.split("."):
        for candidate in (folder / f"{part}.py", folder / part / "__init__.py"):
            if candidate.is_file():
                found.append(candidate)
        folder = folder / part
    return found
