"""PG-19 as released: its books, and trees that are not it."""

from pathlib import Path

import pytest

from cab.data import pg19
from cab.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release of five books."""
    monkeypatch.setattr(pg19, "BOOKS", {"train": 3, "validation": 1, "test": 1})
    for split, count in pg19.BOOKS.items():
        (tmp_path / "pg19" / split).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "pg19" / split / f"{i}.txt").write_text(f"{split} {i}")
    return tmp_path


def test_books_are_read_split_by_split_in_the_order_of_their_names(folder: Path) -> None:
    books = pg19.read_tree(folder)
    assert books is not None
    assert {split: [file.read_text() for file in files] for split, files in books.items()} == {
        "train": ["train 0", "train 1", "train 2"],
        "validation": ["validation 0"],
        "test": ["test 0"],
    }
    assert pg19.read_tree(folder / "elsewhere") is None


def test_a_tree_that_lacks_books_or_has_an_empty_one_is_refused(folder: Path) -> None:
    (folder / "pg19" / "train" / "1.txt").write_text("")
    with pytest.raises(UsageError, match=r"train/1\.txt is empty"):
        pg19.read_tree(folder)
    (folder / "pg19" / "train" / "1.txt").unlink()
    with pytest.raises(UsageError, match=r"train has 2 books, and the release 3.*Complete it, or move it away"):
        pg19.read_tree(folder)
