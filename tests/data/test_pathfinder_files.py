"""Pathfinder in files: the release's layout is written and read, and damaged files are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cab.data import pathfinder, pathfinder_files
from cab.data.pathfinder_tables import published_parameters
from cab.errors import UsageError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    pathfinder_files.write(folder, 32, "hard", 1_100, 7)
    return folder


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three batches of four images."""
    monkeypatch.setattr(pathfinder_files, "BATCH", 4)
    return pathfinder_files.write(tmp_path, 32, "hard", 12, 0)


def test_files_have_the_release_s_layout(written: Path) -> None:
    tree = written / "pathfinder32" / "curv_contour_length_14"
    lines = (tree / "metadata" / "1.npy").read_text().splitlines()
    images, facts = pathfinder.generate(7, 1_000, 100, published_parameters(32))
    assert lines[3] == f"imgs/1 sample_3.png 3 {facts[3, 0]} 1.0 14 4 2 0.5 1 1"
    assert len(lines) == 100 and len(list((tree / "imgs" / "0").iterdir())) == 1_000
    with Image.open(tree / "imgs" / "1" / "sample_3.png") as picture:
        assert picture.mode == "L" and (np.asarray(picture) == images[3]).all()


def test_the_release_is_found_where_its_archive_puts_it(tree: Path, tmp_path: Path) -> None:
    inner = tmp_path / "elsewhere" / "lra_release" / "lra_release" / "pathfinder32"
    inner.mkdir(parents=True)
    tree.rename(inner / tree.name)
    assert pathfinder_files.find(tmp_path / "elsewhere", 32, "hard") == inner / tree.name
    assert pathfinder_files.find(tmp_path / "elsewhere", 32, "easy") is None


def test_metadata_saved_as_an_array_are_read_too(tree: Path) -> None:
    expected = pathfinder_files.read_metadata(tree)
    for file in (tree / "metadata").iterdir():
        np.save(file, np.array([line.split() for line in file.read_text().splitlines()]))
    assert pathfinder_files.read_metadata(tree) == expected


def test_the_known_empty_image_is_left_out(tree: Path, tmp_path: Path) -> None:
    easy = tree.parent / "curv_baseline"
    tree.rename(easy)
    (easy / pathfinder_files.MARKER).unlink()
    for i in range(3):
        file = easy / "metadata" / f"{i}.npy"
        file.write_text(file.read_text().replace("imgs/0 sample_2.png", "imgs/0 sample_172.png"))
    rows = pathfinder_files.read_metadata(easy)
    assert len(rows) == 11 and ("imgs/0", "sample_172.png") not in {row[:2] for row in rows}


@pytest.mark.parametrize("missing", ["metadata/1.npy", "imgs/1"])
def test_a_missing_batch_is_named(tree: Path, missing: str) -> None:
    (tree / missing).rename(tree / "elsewhere")
    with pytest.raises(UsageError, match=f"lacks {missing}"):
        pathfinder_files.read_metadata(tree)


@pytest.mark.parametrize("text", ["", "imgs/0 sample_0.png 0", "imgs/0 sample_0.png 0 2\n", "\x93NUMPY", "\xff\n"])
def test_damaged_metadata_are_named(tree: Path, text: str) -> None:
    (tree / "metadata" / "2.npy").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"2\.npy is not a batch's metadata"):
        pathfinder_files.read_metadata(tree)


def test_unusable_images_are_named(tree: Path) -> None:
    file = tree / "imgs" / "0" / "sample_0.png"
    split = pathfinder_files.StoredImages(tree, 32, pathfinder_files.read_metadata(tree))
    intact = file.read_bytes()
    for content, message in ((b"", "is empty"), (intact[:60], "cannot be read"), (b"text", "cannot be read")):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=rf"sample_0\.png {message}"):
            split[0]
    for picture in (Image.new("L", (64, 64)), Image.new("RGB", (32, 32))):
        picture.save(file)
        with pytest.raises(UsageError, match="32 x 32 grey bytes are needed"):
            split[0]


def test_another_number_of_images_is_not_taken_for_the_one_asked_for(tree: Path) -> None:
    folder = tree.parent.parent
    assert pathfinder_files.write(folder, 32, "hard", 12, 0) == tree
    with pytest.raises(UsageError, match="has 12 images, not 20"):
        pathfinder_files.write(folder, 32, "hard", 20, 0)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr(pathfinder_files, "_png", broken)
    with pytest.raises(OSError, match="disk full"):
        pathfinder_files.write(tmp_path, 32, "hard", 12, 0)
    assert pathfinder_files.find(tmp_path, 32, "hard") is None and list((tmp_path / "pathfinder32").iterdir()) == []
