"""PCN: the tree as released, and PCD files in its three forms, whole and damaged."""

from pathlib import Path

import numpy as np
import pytest

from cab.data import pcn
from cab.errors import UsageError

POINTS = np.array([[0.5, -1, 2], [3, 4, 5], [0.5, -1, 2], [0.5, -1, 2]], dtype=np.float32)


def header(data: str, fields: str = "x y z", count: int = len(POINTS)) -> bytes:
    names = fields.split()
    one = " ".join("1" for _ in names)
    lines = [
        "# .PCD v0.7", "VERSION 0.7", f"FIELDS {fields}", f"SIZE {' '.join('4' for _ in names)}",
        f"TYPE {' '.join('F' for _ in names)}", f"COUNT {one}", f"WIDTH {count}", "HEIGHT 1",
        f"POINTS {count}", f"DATA {data}",
    ]  # fmt: skip
    return ("\n".join(lines) + "\n").encode()


def compressed(packed: bytes, size: int) -> bytes:
    return header("binary_compressed") + np.array([len(packed), size], "<u4").tobytes() + packed


def literal(content: bytes) -> bytes:
    """Write bytes as runs of at most 32."""
    parts = [content[i : i + 32] for i in range(0, len(content), 32)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


COLUMNS = POINTS.T.tobytes()  # compressed data have one field after another
# x is 0.5, 3, 0.5, 0.5: its last 4 bytes are those 4 before; then y and z as they are
WITH_REFERENCE = literal(COLUMNS[:12]) + bytes([(2 << 5) | 0, 3]) + literal(COLUMNS[16:])
FORMS = {
    "ascii": header("ascii") + "\n".join(" ".join(map(str, row)) for row in POINTS.tolist()).encode() + b"\n",
    "binary": header("binary") + POINTS.tobytes(),
    "more fields": header("binary", "rgb z y x") + np.pad(POINTS[:, ::-1], ((0, 0), (1, 0))).tobytes(),
    "runs": compressed(literal(COLUMNS), len(COLUMNS)),
    "a reference": compressed(WITH_REFERENCE, len(COLUMNS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_points(form: str, tmp_path: Path) -> None:
    (tmp_path / "a.pcd").write_bytes(FORMS[form])
    read = pcn.read_pcd(tmp_path / "a.pcd")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, POINTS)


def test_a_reference_may_reach_into_what_it_writes_and_may_be_long(tmp_path: Path) -> None:
    points = np.zeros((100, 3), np.float32)
    # one zero, then a reference to the byte before, of 2 + 7 + 255 bytes, as often as needed
    rest, packed = points.nbytes - 1, bytes([0, 0])
    while rest:
        length = min(rest, 264)
        packed += bytes([7 << 5, length - 9, 0]) if length > 8 else bytes([(length - 2) << 5, 0])
        rest -= length
    (tmp_path / "a.pcd").write_bytes(
        header("binary_compressed", count=100) + np.array([len(packed), points.nbytes], "<u4").tobytes() + packed
    )
    np.testing.assert_array_equal(pcn.read_pcd(tmp_path / "a.pcd"), points)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_cut_off_is_refused(form: str, tmp_path: Path) -> None:
    (tmp_path / "a.pcd").write_bytes(FORMS[form][:-16])
    with pytest.raises(UsageError, match=r"a\.pcd is cut off or damaged"):
        pcn.read_pcd(tmp_path / "a.pcd")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not found</html>", "is no PCD file: it has no line DATA"),
        (header("binary", "x y intensity"), "lacks x, y or z"),
        (header("binary").replace(b"POINTS 4", b"POINTS four") + POINTS.tobytes(), "is cut off or damaged"),
        (header("binary").replace(b"TYPE F", b"TYPE Q") + POINTS.tobytes(), "is cut off or damaged"),
        (header("binary").replace(b"SIZE 4", b"SIZE 5") + POINTS.tobytes(), "is cut off or damaged"),
        (header("binary", count=1) + np.full(3, np.nan, np.float32).tobytes(), "no point with finite coordinates"),
        (compressed(bytes([32, 5]), 48), "cut off or damaged"),  # a reference to before the beginning
        (compressed(literal(COLUMNS)[:9], 48), "cut off or damaged"),
    ],
)
def test_what_is_no_cloud_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pcd").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        pcn.read_pcd(tmp_path / "a.pcd")


def test_points_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.pcd").write_bytes(header("ascii") + b"1 2 3\nnan nan nan\n4 5 6\n7 8 9\n")
    assert pcn.read_pcd(tmp_path / "a.pcd").tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pcn, "SHAPES", {"train": 2, "validation": 1, "test": 1})
    for split, models in {"train": ("b/2", "a/1"), "val": ("a/3",), "test": ("c/4",)}.items():
        for model in models:
            whole = tmp_path / "PCN" / split / "complete" / f"{model}.pcd"
            parts = tmp_path / "PCN" / split / "partial" / model
            whole.parent.mkdir(parents=True, exist_ok=True)
            parts.mkdir(parents=True)
            for file in (whole, parts / "00.pcd", parts / "01.pcd"):
                file.write_bytes(FORMS["binary"])
    return tmp_path


def test_the_tree_is_read_as_released(tree: Path) -> None:
    splits = pcn.read_tree(tree)
    assert splits is not None and {name: len(shapes) for name, shapes in splits.items()} == pcn.SHAPES
    assert [shape.complete.stem for shape in splits["train"]] == ["1", "2"]
    assert [file.name for file in splits["validation"][0].partial] == ["00.pcd", "01.pcd"]
    assert "/val/" in splits["validation"][0].partial[0].as_posix()


def test_a_tree_that_is_not_whole_is_refused_and_none_is_none(tree: Path) -> None:
    assert pcn.read_tree(tree / "PCN") is None
    (tree / "PCN/train/complete/b/2.pcd").unlink()
    with pytest.raises(
        UsageError, match="train/complete has 1 shapes, and the release 2 .* Complete it, or move it away"
    ):
        pcn.read_tree(tree)
    (tree / "PCN/train/complete/b/2.pcd").touch()
    for file in (tree / "PCN/train/partial/b/2").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match=r"partial/b/2 has no file \*\.pcd: complete it"):
        pcn.read_tree(tree)
