"""Pathfinder in the release's layout: pathfinder32/curv_baseline/{imgs/<batch>/sample_<i>.png, metadata/<batch>.npy}.

The metadata are plain text in spite of their name: one line an image, with the label in the fourth column. Newer
versions of the original code save an array with the same columns, which is read too.
"""

import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cab.data.download import atomic_folder, folder_lock
from cab.data.pathfinder import generate_chunks
from cab.data.pathfinder_tables import DIFFICULTIES, Array, published_parameters
from cab.errors import UsageError

SUBFOLDERS = ("", "pathfinder", "lra_release", "lra_release/lra_release")
BATCH = 1_000  # images in a folder
OFFICIAL = 200_000  # images of the release
EMPTY = ("pathfinder32", "curv_baseline", "imgs/0", "sample_172.png")  # the release's one empty image, left out
MARKER = ".cab-generated.json"  # is in a tree that `write` made

Row = tuple[str, str, int]  # folder, file name, label


class StoredImages:
    """Images in files as a split: item i is (pixels row by row, label)."""

    def __init__(self, tree: Path, size: int, rows: list[Row]) -> None:
        self.tree, self.size, self.rows = tree, size, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> tuple[Array, int]:
        folder, name, label = self.rows[index]
        return read_image(self.tree / folder / name, self.size).reshape(-1), label

    def labels(self) -> Array:
        """Return the labels of all images."""
        return np.array([label for _, _, label in self.rows])


def write(folder: Path, size: int, difficulty: str, images: int, seed: int) -> Path:
    """Draw `images` images into the release's layout in `folder`, all or none, and return their folder."""
    if images < 10:
        raise UsageError(f"{images} images asked for; at least 10 are needed, so that each split has one")
    parameters = published_parameters(size, difficulty)
    target = folder / f"pathfinder{size}" / DIFFICULTIES[difficulty][1]
    with folder_lock(folder):
        if target.exists():
            existing = len(read_metadata(target))
            if existing != images:
                raise UsageError(
                    f"{target} has {existing:,} images, not {images:,}. Move it away, or ask for {existing}."
                )
            return target
        with atomic_folder(target) as temporary:
            drawings = _flatten(generate_chunks(seed, 0, images, parameters))
            (temporary / "metadata").mkdir()
            for batch in range(-(-images // BATCH)):
                batch_folder = temporary / "imgs" / str(batch)
                batch_folder.mkdir(parents=True)
                lines = []
                for i, (image, facts) in enumerate(islice(drawings, BATCH)):
                    (batch_folder / f"sample_{i}.png").write_bytes(_png(image))
                    columns = [
                        f"imgs/{batch}", f"sample_{i}.png", i, facts[0], parameters.continuity, parameters.segments,
                        parameters.distractor_segments, parameters.length, parameters.thickness,
                        parameters.margins[facts[1]], 1,
                    ]  # fmt: skip
                    lines.append(" ".join(map(str, columns)) + "\n")
                (temporary / "metadata" / f"{batch}.npy").write_text("".join(lines), encoding="ascii")
            (temporary / MARKER).write_text(json.dumps({"seed": seed, "images": images}) + "\n", encoding="ascii")
    return target


def find(folder: Path, size: int, difficulty: str) -> Path | None:
    """Return the tree in `folder` with the images of a size and difficulty, or None."""
    for subfolder in SUBFOLDERS:
        tree = folder / subfolder / f"pathfinder{size}" / DIFFICULTIES[difficulty][1]
        if tree.exists():
            return tree
    return None


def generation_record(tree: Path) -> dict[str, Any] | None:
    """Return the seed and the number of images that `write` made a tree with; None for a tree of others."""
    marker = tree / MARKER
    return json.loads(marker.read_text(encoding="ascii")) if marker.is_file() else None


def read_metadata(tree: Path) -> list[Row]:
    """Return folder, file name and label of every image; `UsageError` where a batch is missing or unreadable."""
    with_metadata, with_images = _batch_numbers(tree / "metadata", ".npy"), _batch_numbers(tree / "imgs", "")
    if not with_metadata:
        raise UsageError(f"{tree} has no metadata/<batch>.npy. Complete it, or move it away.")
    batches = range(max(with_metadata | with_images) + 1)
    missing = [f"metadata/{batch}.npy" for batch in batches if batch not in with_metadata]
    missing += [f"imgs/{batch}" for batch in batches if batch not in with_images]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UsageError(f"{tree} lacks {', '.join(missing[:3])}{more}. Complete it, or move it away.")
    rows = [row for batch in batches for row in _read_batch(tree / "metadata" / f"{batch}.npy")]
    record = generation_record(tree)
    if record and len(rows) != record["images"]:
        raise UsageError(f"{tree} was made with {record['images']:,} images and lists {len(rows):,}. Make it again.")
    return [row for row in rows if (tree.parent.name, tree.name, row[0], row[1]) != EMPTY]


def read_image(file: Path, size: int) -> Array:
    """Read an image (size, size); `UsageError` where it is empty, damaged, of another size or in colour."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        fault = "is empty" if file.is_file() and not file.stat().st_size else f"cannot be read ({error})"
        raise UsageError(f"{file} {fault}. Replace it, or take its line out of the metadata.") from None
    if pixels.shape != (size, size) or pixels.dtype != np.uint8:
        raise UsageError(f"{file} is {pixels.shape} of {pixels.dtype}; {size} x {size} grey bytes are needed")
    return pixels


def _flatten(chunks: Iterator[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    for images, facts in chunks:
        yield from zip(images, facts, strict=True)


def _png(image: Array) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _batch_numbers(folder: Path, suffix: str) -> set[int]:
    if not folder.is_dir():
        return set()
    names = [file.name.removesuffix(suffix) for file in folder.iterdir() if file.name.endswith(suffix)]
    return {int(name) for name in names if name.isdecimal()}


def _read_batch(file: Path) -> list[Row]:
    content = file.read_bytes()
    try:
        if content.startswith(b"\x93NUMPY"):
            table = np.load(io.BytesIO(content), allow_pickle=False).astype(str).tolist()
        else:
            table = [line.split() for line in content.decode("ascii").splitlines()]
            if not content.endswith(b"\n"):
                raise ValueError
        rows = [(str(columns[0]), str(columns[1]), int(columns[3])) for columns in table]
        if not rows or any(label not in (0, 1) or not name.endswith(".png") for _, name, label in rows):
            raise ValueError
    except (ValueError, IndexError, EOFError):
        raise UsageError(
            f"{file} is not a batch's metadata: one line an image, `imgs/0 sample_0.png 0 LABEL ...`, LABEL 0 or 1. "
            "The file is truncated or damaged: replace it."
        ) from None
    return rows
