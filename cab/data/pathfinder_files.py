"""Pathfinder in the release's layout: pathfinder32/curv_baseline/{imgs/<batch>/sample_<i>.png, metadata/<batch>.npy}.

The metadata are plain text in spite of their name: one line an image, the label in the fourth column. Newer versions of
the original's code save an array of the same columns, which is read too.
"""

import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cab.data.download import alone, placed
from cab.data.pathfinder import chunks
from cab.data.pathfinder_tables import DIFFICULTIES, Array, recipe
from cab.errors import UsageError

PLACES = ("", "pathfinder", "lra_release", "lra_release/lra_release")
BATCH = 1_000  # images of a folder
OFFICIAL = 200_000
EMPTY = ("pathfinder32", "curv_baseline", "imgs/0", "sample_172.png")  # the release's one empty image, left out
MARK = ".cab-generated.json"  # stands in a tree that we made


class Filed:
    """Images in files as a split: item i is (pixels row by row, label)."""

    def __init__(self, tree: Path, size: int, rows: list[tuple[str, str, int]]) -> None:
        self.tree, self.size, self.rows = tree, size, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> tuple[Array, int]:
        folder, name, label = self.rows[index]
        return read_image(self.tree / folder / name, self.size).reshape(-1), label

    def labels(self) -> Array:
        """Return all labels."""
        return np.array([label for _, _, label in self.rows])


def write(folder: Path, size: int, difficulty: str, images: int, seed: int) -> Path:
    """Draw `images` images into the release's layout in `folder`, all or nothing, and return where they are."""
    if images < 10:
        raise UsageError(f"{images} images asked for; at least 10 are needed, so that each split has one")
    wanted = recipe(size, difficulty)
    target = folder / f"pathfinder{size}" / DIFFICULTIES[difficulty][1]
    with alone(folder):
        if target.exists():
            found = len(read_metadata(target))
            if found != images:
                raise UsageError(f"{target} has {found:,} images, not {images:,}. Move it away, or ask for {found}.")
            return target
        with placed(target) as beside:
            drawn = _each(chunks(seed, 0, images, wanted))
            (beside / "metadata").mkdir()
            for batch in range(-(-images // BATCH)):
                place = beside / "imgs" / str(batch)
                place.mkdir(parents=True)
                lines = []
                for i, (image, facts) in enumerate(islice(drawn, BATCH)):
                    (place / f"sample_{i}.png").write_bytes(_png(image))
                    columns = [
                        f"imgs/{batch}", f"sample_{i}.png", i, facts[0], wanted.continuity, wanted.segments,
                        wanted.distractor_segments, wanted.length, wanted.thickness, wanted.margins[facts[1]], 1,
                    ]  # fmt: skip
                    lines.append(" ".join(map(str, columns)) + "\n")
                (beside / "metadata" / f"{batch}.npy").write_text("".join(lines), encoding="ascii")
            (beside / MARK).write_text(json.dumps({"seed": seed, "images": images}) + "\n", encoding="ascii")
    return target


def find(folder: Path, size: int, difficulty: str) -> Path | None:
    """Return where the images of a size and difficulty are, or None."""
    for place in PLACES:
        tree = folder / place / f"pathfinder{size}" / DIFFICULTIES[difficulty][1]
        if tree.exists():
            return tree
    return None


def made(tree: Path) -> dict[str, Any] | None:
    """Return what we drew a tree with, or None where it is somebody else's."""
    mark = tree / MARK
    return json.loads(mark.read_text(encoding="ascii")) if mark.is_file() else None


def read_metadata(tree: Path) -> list[tuple[str, str, int]]:
    """Return folder, file name and label of every image; `UsageError` where a batch is missing or unreadable."""
    listed, pictured = _numbers(tree / "metadata", ".npy"), _numbers(tree / "imgs", "")
    if not listed:
        raise UsageError(f"{tree} has no metadata/<batch>.npy. Complete it, or move it away.")
    wanted = range(max(listed | pictured) + 1)
    missing = [f"metadata/{b}.npy" for b in wanted if b not in listed]
    missing += [f"imgs/{b}" for b in wanted if b not in pictured]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UsageError(f"{tree} lacks {', '.join(missing[:3])}{more}. Complete it, or move it away.")
    rows = [row for batch in wanted for row in _batch(tree / "metadata" / f"{batch}.npy")]
    ours = made(tree)
    if ours and len(rows) != ours["images"]:
        raise UsageError(f"{tree} was made with {ours['images']:,} images and lists {len(rows):,}. Make it again.")
    return [row for row in rows if (tree.parent.name, tree.name, row[0], row[1]) != EMPTY]


def read_image(file: Path, size: int) -> Array:
    """Read one image; `UsageError` where it is empty, damaged, of another size or in colour."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        what = "is empty" if file.is_file() and not file.stat().st_size else f"cannot be read ({error})"
        raise UsageError(f"{file} {what}. Bring it again, or take its line out of the metadata.") from None
    if pixels.shape != (size, size) or pixels.dtype != np.uint8:
        raise UsageError(f"{file} is {pixels.shape} of {pixels.dtype}; {size} x {size} grey bytes are needed")
    return pixels


def _each(parts: Iterator[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    for images, facts in parts:
        yield from zip(images, facts, strict=True)


def _png(image: Array) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _numbers(folder: Path, suffix: str) -> set[int]:
    if not folder.is_dir():
        return set()
    names = [file.name.removesuffix(suffix) for file in folder.iterdir() if file.name.endswith(suffix)]
    return {int(name) for name in names if name.isdecimal()}


def _batch(file: Path) -> list[tuple[str, str, int]]:
    raw = file.read_bytes()
    try:
        if raw.startswith(b"\x93NUMPY"):
            rows = np.load(io.BytesIO(raw), allow_pickle=False).astype(str).tolist()
        else:
            rows = [line.split() for line in raw.decode("ascii").splitlines()]
            if not raw.endswith(b"\n"):
                raise ValueError
        found = [(str(row[0]), str(row[1]), int(row[3])) for row in rows]
        if not found or any(label not in (0, 1) or not name.endswith(".png") for _, name, label in found):
            raise ValueError
    except (ValueError, IndexError, EOFError):
        raise UsageError(
            f"{file} is not a batch's metadata: one line an image, `imgs/0 sample_0.png 0 LABEL ...`, LABEL 0 or 1. "
            "The file is truncated or damaged: bring it again."
        ) from None
    return found
