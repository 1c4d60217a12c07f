"""The fingerprint of a plug-in: its source and what it imports from `cab`, by their syntax trees.

A comment or a blank line changes nothing; a changed constant in `cab/ops` changes every mechanism that imports it.
A task's data have a fingerprint too: where other data lie in the folder, a kept number is not the answer.
"""

import ast
import hashlib
import os
from functools import cache, lru_cache
from pathlib import Path

from cab.folders import PACKAGE, beside

_PLUGINS = ("mechanisms", "tasks")


@cache
def of(*paths: str | Path) -> str:
    """Hash the files and everything of `cab` that they import, directly or not."""
    trees: dict[Path, str] = {}
    queue = [Path(path).resolve() for path in paths]
    while queue:
        path = queue.pop()
        if path not in trees:
            trees[path], imports = _read(path)
            queue += imports
    own = sorted(trees.values())  # by content alone: the same source in another folder has the same fingerprint
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


@cache
def _read(path: Path) -> tuple[str, tuple[Path, ...]]:
    tree = ast.parse(path.read_bytes())
    found: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # relative: within the file's own folder
                found += _resolve_beside(path, module or node.names[0].name)
            else:
                found += [p for alias in node.names for p in _resolve(f"{module}.{alias.name}", path)]
        elif isinstance(node, ast.Import):
            found += [p for alias in node.names for p in _resolve(alias.name, path)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(dict.fromkeys(found))


def _resolve(name: str, importer: Path) -> list[Path]:
    """Return the file of `cab.x.y` or `cab.x.y.name`; of another package nothing, of a neighbour its file."""
    parts = name.split(".")
    if parts[0] != "cab":
        return _resolve_beside(importer, parts[0]) if not importer.is_relative_to(PACKAGE) else []
    if len(parts) == 2 and parts[1] in _lazy():
        parts = _lazy()[parts[1]].split(".")
    while len(parts) > 1:
        root = beside(parts[1]).parent if parts[1] in _PLUGINS else PACKAGE
        place = root.joinpath(*parts[1:])
        for candidate in (place.with_suffix(".py"), place / "__init__.py"):
            if candidate.is_file():
                return [candidate]
        parts.pop()
    return []


def _resolve_beside(importer: Path, module: str) -> list[Path]:
    # only of a user's file, whose helpers lie beside it; a plug-in of ours imports no neighbour
    candidate = importer.parent / f"{module.split('.')[0]}.py"
    return [candidate] if module and candidate.is_file() and candidate != importer else []


@lru_cache
def _lazy() -> dict[str, str]:
    """Return where `from cab import X` gets X from."""
    import cab

    return cab._HOME
