"""Multi-News: its six files, line by line."""

from pathlib import Path

import pytest

from cab.data import multi_news
from cab.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release of three examples a split."""
    monkeypatch.setattr(multi_news, "EXAMPLES", {"train": 3, "validation": 3, "test": 3})
    tree = tmp_path / multi_news.TREE
    tree.mkdir()
    for split in ("train", "val", "test"):
        (tree / f"{split}.src.cleaned").write_bytes(f"{split} NEWLINE_CHAR two ||||| b\nü\nlast".encode())
        (tree / f"{split}.tgt").write_bytes(b" short\nmiddle\nend\n")
    return tmp_path


def test_examples_are_the_lines_of_both_files(folder: Path) -> None:
    splits = multi_news.read_tree(folder)
    assert splits is not None and list(splits) == ["train", "validation", "test"]
    found = [splits["validation"][i] for i in range(3)]
    assert found == [("val \n two ||||| b", "short"), ("ü", "middle"), ("last", "end")]


def test_an_example_without_articles_or_summary_is_left_out(folder: Path) -> None:
    (folder / multi_news.TREE / "test.src.cleaned").write_text("\nb\nc\n")
    (folder / multi_news.TREE / "test.tgt").write_text("a\nb\n\n")
    splits = multi_news.read_tree(folder)
    assert splits is not None and [splits["test"][i] for i in range(len(splits["test"]))] == [("b", "b")]


def test_a_tree_that_lacks_files_or_lines_is_refused_and_no_tree_is_none(folder: Path, tmp_path: Path) -> None:
    tree = folder / multi_news.TREE
    (tree / "val.tgt").write_text("a\nb\n")
    with pytest.raises(UsageError, match="val.tgt has 2 lines, and the release 3. Complete it, or move .* away"):
        multi_news.read_tree(folder)
    (tree / "val.tgt").unlink()
    with pytest.raises(UsageError, match="multi-news has no val.tgt. Complete it, or move it away"):
        multi_news.read_tree(folder)
    assert multi_news.read_tree(tmp_path / "elsewhere") is None
