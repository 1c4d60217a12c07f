"""Texts and arguments of functions: what is taken out of a module, of a wheel, and which file is read."""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cab.data import docstrings, pypi
from cab.data.docstrings import Pair, pairs_of_module, parameters_section
from cab.errors import UsageError

FUNCTION = '''
{head}
    """First line.

    Parameters
    ----------
    {text}

    Returns
    -------
    c : int
    """
'''


def function(head: str = "def f(a, b):", text: str = "a, b : int") -> str:
    return FUNCTION.format(head=head, text=text)


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("def f(a, b):", "a b"),
        ("async def f(self, a, /, b=1, *c, d=(), **e):", "a b c d e"),
        ("def f(a, *, b: int = 3) -> None:", "a b"),
    ],
)
def test_arguments_are_those_of_the_signature_in_its_order(head: str, names: str) -> None:
    assert list(pairs_of_module(function(head))) == [Pair("a, b : int", names)]


def test_the_text_ends_where_the_next_section_begins() -> None:
    text = "A.\n\nParameters\n----------\na : int\n    One.\n\n    Two.\n\nSee Also\n--------\nb"
    assert parameters_section(text) == "a : int\n    One.\n\n    Two."
    assert parameters_section("Parameters\n----------\na : int") == "a : int"
    assert parameters_section("Other Parameters\n----------------\na : int") == "" == parameters_section("Parameters")


def test_a_class_has_the_arguments_of_its_constructor() -> None:
    body = "\n    def other(self, z): ...\n    def __init__(self, x, y): ...\n"
    assert list(pairs_of_module(function("class F:") + body)) == [Pair("a, b : int", "x y")]
    assert list(pairs_of_module(function("class F:"))) == []


def test_a_function_without_arguments_or_without_the_section_has_no_pair() -> None:
    assert list(pairs_of_module(function("def f():") + 'def g(a):\n    """Nothing."""\ndef h(a): ...')) == []


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for pip, which brings one wheel; return a data folder."""
    file = tmp_path / "some.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("p/b.py", function("def f(b):", "b : int"))
        archive.writestr("p/a.py", function("def f(a):", "a : ü") + function("def g(z):", "b : int"))
        archive.writestr("p/tests/c.py", function("def f(c):", "c : int"))
        archive.writestr("p/data.txt", "no module")

    @contextmanager
    def wheel(*_: str) -> Iterator[Any]:
        with zipfile.ZipFile(file) as archive:
            yield archive

    monkeypatch.setattr(pypi, "wheel", wheel)
    return tmp_path / "data"


def test_only_the_known_file_is_read_and_kept(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="truncated or damaged"):
        docstrings.fetch(wheels)
    assert not (wheels / docstrings.FOLDER).exists()  # nothing is left that could be taken for the data
    content = "".join(json.dumps(each) + "\n" for each in (("a : ü", "a"), ("b : int", "z")))  # each text once
    monkeypatch.setattr(docstrings, "FILE_SHA256", hashlib.sha256(content.encode()).hexdigest())
    docstrings.fetch(wheels)
    tree = wheels / docstrings.FOLDER
    assert docstrings.read(tree) == [Pair("a : ü", "a"), Pair("b : int", "z")]
    (tree / docstrings.FILE).write_text(content[:-9])
    for use in (docstrings.fetch, lambda folder: docstrings.read(folder / docstrings.FOLDER)):
        with pytest.raises(UsageError, match="truncated or damaged. Move .* away"):
            use(wheels)
    (tree / docstrings.FILE).unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        docstrings.fetch(wheels)
