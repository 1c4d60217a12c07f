"""The fingerprint of a plug-in: a hash of its source and of what it imports from `cab`, by their syntax trees.

A comment, a docstring or a blank line changes no fingerprint. A changed constant in `cab/ops` changes that of every
mechanism that imports it. A task's data have a fingerprint too: a kept number is not the answer for other data.
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
    `UsageError` names a file that cannot be read.
    """
    tree_hashes: dict[Path, str] = {}
    versions: set[str] = set()
    queue = [(path, path.parent) for path in (Path(each).resolve() for each in paths)]
    while queue:
        path, root = queue.pop()
        if path not in tree_hashes:
            tree_hashes[path], imported_files, packages = _read(path, root, *_stamp(path))
            queue += [(each, root) for each in imported_files]
            versions |= {f"{name} {version}" for name in packages if (version := _version(name))}
    # by content alone: the same source in another folder has the same fingerprint
    return _hash([*sorted(tree_hashes.values()), *sorted(versions)])


def named_files(params: Mapping[str, object]) -> tuple[str, ...]:
    """Return the files that hyper-parameters name, as `mask=./mine.py:past` does: theirs is its source, too."""
    files: list[str] = []
    for value in params.values():
        if isinstance(value, Mapping):  # of a mechanism inside a wrapper
            files += named_files(value)
        elif isinstance(value, str) and ".py:" in value and Path(file := value.rpartition(":")[0]).is_file():
            files.append(file)
    return tuple(files)


def of_data(folder: Path, names: tuple[str, ...]) -> str:
    """Hash the names and sizes of the files that lie under `names` in a data folder; "" where there are none."""
    entries: list[str] = []
    for name in names:
        for inside, _, files in os.walk(folder / name):
            within = inside.removeprefix(str(folder))
            entries += [f"{within}/{file} {_size(os.path.join(inside, file))}" for file in files]
    return _hash(sorted(entries)) if entries else ""


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a link to nothing: who reads it will say so
        return -1


def _stamp(path: Path) -> tuple[int, ...]:
    """Tell one state of a file from the next: a notebook's process sees many."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino


@cache
def _read(path: Path, root: Path, *stamp: int) -> tuple[str, tuple[Path, ...], frozenset[str]]:
    """Return the hash of a file, the files that it imports, and the packages that a user's file imports.

    `root` is the folder of the plug-in that the search began with: its packages are named from there. `stamp` is the
    state of the file, so that a changed one is read anew.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path} is not valid Python: {error}") from error
    imported_files: list[Path] = []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # relative: from the file's own folder, or one above it
                folder = path.parents[node.level - 1]
                relative = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
                imported_files += [file for name in relative for file in _files_in(folder, name) if file != path]
            else:
                names += [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    imported_files += [file for name in names for file in _files_of(name, path, root)]
    packages = {name.split(".")[0] for name in names} - {"cab", *sys.stdlib_module_names} if _is_users(path) else ()
    tree_hash = hashlib.sha256(_dump(tree).encode()).hexdigest()
    return tree_hash, tuple(dict.fromkeys(imported_files)), frozenset(packages)


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
    distributions = _distributions().get(package, ()) if installed(package) is None else (package,)
    return next((version for name in distributions if (version := installed(name))), None)


@lru_cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _files_of(name: str, importer: Path, root: Path) -> list[Path]:
    """Return the files that importing `cab.x.y`, `cab.x.y.name` or a module beside a user's file reads.

    None of any other package.
    """
    parts = name.split(".")
    if parts[0] == "cab":
        return _files_of_cab(parts)
    # a plug-in of ours imports no neighbour: only a user's file has modules beside it
    folders = dict.fromkeys((importer.parent, root)) if _is_users(importer) else ()
    return [file for folder in folders for file in _files_in(folder, name) if file != importer]


def _files_of_cab(parts: list[str]) -> list[Path]:
    """Return the file of `cab.x.y` or of `cab.x.y.name`: the longest name that is a module."""
    if len(parts) == 2 and parts[1] in PUBLIC_NAMES:
        parts = PUBLIC_NAMES[parts[1]].split(".")
    for length in range(len(parts), 1, -1):
        top = beside(parts[1]).parent if parts[1] in _PLUGINS else PACKAGE
        module = top.joinpath(*parts[1:length])
        for file in (module.with_suffix(".py"), module / "__init__.py"):
            if file.is_file():
                return [file]
    return []


def _is_users(path: Path) -> bool:
    return not any(path.is_relative_to(folder) for folder in (PACKAGE, *map(beside, _PLUGINS)))


def _files_in(folder: Path, name: str) -> list[Path]:
    """Return the files of `x`, `x.y` or `x.y.name` in a folder: a module, or a package with its `__init__`s."""
    files: list[Path] = []
    for part in name.split("."):
        for file in (folder / f"{part}.py", folder / part / "__init__.py"):
            if file.is_file():
                files.append(file)
        folder = folder / part
    return files
