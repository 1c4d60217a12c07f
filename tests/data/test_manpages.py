"""Pairs of manual pages: no text in two splits, no page that tells its label, and `lra_retrieval` uses them."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cab import Missing, Source
from cab.data import aan, debian, manpages
from cab.errors import UsageError
from cab.plugins import registry

LraRetrieval: Any = registry.load("task", "lra_retrieval")


def page(name: str, body: str, also: str) -> bytes:
    text = f""".TH {name} 3
.SH NAME
{name}, {name}_r \\- a page
.SH DESCRIPTION
.B {name}
{body}\\-text, see
.BR other (3)
.SH SEE ALSO
{also}
"""
    return gzip.compress(text.encode(), mtime=0)


def library(letters: str) -> list[tuple[str, bytes]]:
    """Make twelve pages for each letter; each refers to the next three of its letter, to one of them by an alias."""
    files = []
    for letter in letters:
        names = [f"{letter * 3}{i}" for i in range(12)]
        for i, name in enumerate(names):
            others = [names[(i + step) % 12] for step in (1, 2, 3)]
            also = f".BR {others[0]} (3),\n\\fB{others[1]}\\fR(3), {others[2]}_r(3), \\fBmissing\\fP(3)"
            files.append((f"3/{name}.3.gz", page(name, f"body of {name}", also)))
    return files


def test_a_page_is_read_without_roff_names_and_see_also() -> None:
    pages, links = manpages.read_pages([*library("a"), ("3/alias.3.gz", gzip.compress(b".so man3/aaa1.3\n"))])
    assert pages["aaa1(3)"] == "DESCRIPTION aaa1 body of aaa1-text, see other(3)"
    assert len(pages) == 12 and len(links) == 36 and ("aaa1(3)", "aaa4(3)") in links
    lines = [
        ".de X",
        "hidden",
        "..",
        '.SH "NAME"',
        "x \\- y",
        ".SH ONE",
        ".TS",
        "l l.",
        "cell",
        ".TE",
        '.BI "int " f (',
    ]
    text, name, also = manpages.plain("\n".join([*lines, "'\\\" comment", ".sp 2", "\\fBbold\\fR\\|text"]))
    assert (text, name, also) == ("ONE cell int f( boldtext", "x - y", "")


def test_no_page_is_in_two_splits_and_none_tells_by_itself() -> None:
    pages, links = manpages.read_pages(library("abcdefghijklmnopqrstuvwxyz"))
    split_of_page: dict[str, str] = {}
    for split in manpages.SHARES:
        labelled = manpages.make_pairs(pages, links, split)
        assert labelled == manpages.make_pairs(dict(reversed(pages.items())), set(sorted(links)), split)
        for label, (a, b) in labelled:
            assert a != b and ((min(a, b), max(a, b)) in links) == bool(label)
            assert split_of_page.setdefault(a, split) == split and split_of_page.setdefault(b, split) == split
        assert len({frozenset(pair) for _, pair in labelled}) == len(labelled) > 0
        for side in (0, 1):
            positive, negative = (Counter(pair[side] for label, pair in labelled if label == kind) for kind in (1, 0))
            # but for the few pages that are linked with every page that is left
            assert sum((positive - negative).values()) <= 0.05 * len(labelled)


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace Debian's packages by small ones."""

    @contextmanager
    def packages(names: Any) -> Iterator[Any]:
        yield {name: (f"{i}.0", Path(name)) for i, name in enumerate(names)}

    letters = dict(zip(manpages.PACKAGES, ("abcdef", "ghijkl", "mnopqr", "stuvwxyz"), strict=True))
    monkeypatch.setattr(debian, "packages", packages)
    monkeypatch.setattr(debian, "files", lambda package, under: iter(library(letters[package.name])))


@pytest.mark.usefixtures("packaged")
def test_manual_pages_stand_in_in_the_release_s_layout_and_say_so(tmp_path: Path) -> None:
    missing = LraRetrieval(seq_len=64).source(tmp_path)
    assert isinstance(missing, Missing) and "cab data get lra_retrieval" in missing.run
    LraRetrieval(seq_len=64).fetch(tmp_path)
    task = LraRetrieval(seq_len=64)
    source = task.source(tmp_path)
    assert isinstance(source, Source)
    assert source.name == "manual pages" and not source.comparable and "libssl-doc 2.0" in source.note
    first = {name: (tmp_path / "manpages" / name).read_bytes() for name in aan.FILES.values()}
    other = tmp_path / "other"
    other.mkdir()
    LraRetrieval(seq_len=64).fetch(other)
    assert first == {name: (other / "manpages" / name).read_bytes() for name in first}  # the same every time
    labels = task.split("train", 0).labels
    assert labels.mean() == 0.5 and 0 < labels[: len(labels) // 2].mean() < 1
    assert json.loads((tmp_path / "manpages" / manpages.MARKER).read_text())["packages"]["manpages-dev"] == "0.0"


@pytest.mark.usefixtures("packaged")
def test_the_release_comes_before_manual_pages(tmp_path: Path) -> None:
    (tmp_path / "tsv_data").mkdir()
    for name in aan.FILES.values():
        (tmp_path / "tsv_data" / name).write_bytes(b"0.0\tP1\tP2\tone text\tanother\n")
    LraRetrieval(seq_len=64).fetch(tmp_path)
    assert LraRetrieval(seq_len=64).source(tmp_path).name == "AAN"


@pytest.mark.usefixtures("packaged")
def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(manpages, "_tsv_row", broken)
    with pytest.raises(OSError, match="disk full"):
        LraRetrieval(seq_len=64).fetch(tmp_path)
    assert isinstance(LraRetrieval(seq_len=64).source(tmp_path), Missing)
    assert [p.name for p in tmp_path.iterdir()] == [".cab-download.lock"]


def test_where_there_is_no_apt_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="apt-get and dpkg-deb are needed"):
        LraRetrieval(seq_len=64).fetch(tmp_path)
