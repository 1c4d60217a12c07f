"""PCN (Yuan et al., arXiv 1808.00671) as released for completion: a folder for each split, with partial and complete.

    PCN/train/complete/02691156/1a04e3eab45ca15dd86060f189eb133.pcd
    PCN/train/partial/02691156/1a04e3eab45ca15dd86060f189eb133/00.pcd ... 07.pcd

It is 48 GB, of ShapeNet, whose terms everybody accepts for himself, and is not downloaded from here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from cab.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

TREE = "PCN"
SPLITS = {"train": "train", "validation": "val", "test": "test"}
SHAPES = {"train": 28_974, "validation": 800, "test": 1_200}  # as released
COMPLETE = 16_384  # points of a complete cloud
BRING = f"put PCN's train, val and test folders, as GRNet's and PoinTr's releases have them, into {TREE} there"
_NUMBERS = {"F": "f", "I": "i", "U": "u"}


@dataclass(frozen=True)
class Shape:
    """One shape: the file of its points, and the files of what is seen of it from several sides."""

    complete: Path
    partial: tuple[Path, ...]


def read_tree(folder: Path) -> dict[str, list[Shape]] | None:
    """Return the shapes of each split, sorted, or None where `folder` has no PCN.

    `UsageError` where a split has another number of shapes than the release, or a shape has no partial clouds: a
    half-copied tree is another data set.
    """
    tree = folder / TREE
    if not tree.exists():
        return None
    shapes = {split: sorted(_shapes(tree / name)) for split, name in SPLITS.items()}
    splits = {}
    for split, name in SPLITS.items():
        if len(shapes[split]) != SHAPES[split]:
            raise UsageError(
                f"{tree / name / 'complete'} has {len(shapes[split]):,} shapes, and the release {SHAPES[split]:,} "
                "(CATEGORY/MODEL.pcd). Complete it, or move it away."
            )
        splits[split] = [_shape(tree / name, category, model) for category, model in shapes[split]]
    return splits


def read_pcd(file: Path) -> Array:
    """Read the points of a PCD file, of version 0.7, as text, binary or compressed: float32 (points, 3).

    `UsageError` where it is no such file, is cut off, or has no point with finite coordinates.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    head, data, body = _header(file, content)
    kinds, repeats = head["TYPE"], head.get("COUNT", ["1"] * len(head["FIELDS"]))
    try:
        count, sizes = int(head["POINTS"][0]), [int(size) for size in head["SIZE"]]
        record = np.dtype(
            [
                (name, f"<{_NUMBERS[kind]}{size}", (int(repeat),) if int(repeat) > 1 else ())
                for name, kind, size, repeat in zip(head["FIELDS"], kinds, sizes, repeats, strict=True)
            ]
        )
        if data == "ascii":
            rows = np.array([line.split() for line in body.decode().splitlines() if line.strip()], dtype=np.float64)
            points = rows[:, [head["FIELDS"].index(axis) for axis in "xyz"]]
        elif data == "binary":
            table = np.frombuffer(body, record, count)
            points = np.stack([table[axis] for axis in "xyz"], 1)
        else:
            fields = _fields(record, _decompressed(body), count)
            points = np.stack([fields[axis] for axis in "xyz"], 1)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UsageError(f"{file} is cut off or damaged: {error}") from None
    if len(points) != count:
        raise UsageError(f"{file} is cut off or damaged: it has {len(points):,} points of {count:,}")
    points = points[np.isfinite(points).all(1)].astype(np.float32)
    if not len(points):
        raise UsageError(f"{file} has no point with finite coordinates")
    return points


def _shapes(split: Path) -> list[tuple[str, str]]:
    """Return the category and the model of each complete cloud."""
    return [(file.parent.name, file.stem) for file in (split / "complete").glob("*/*.pcd")]


def _shape(split: Path, category: str, model: str) -> Shape:
    partial = tuple(sorted((split / "partial" / category / model).glob("*.pcd")))
    if not partial:
        raise UsageError(f"{split / 'partial' / category / model} has no file *.pcd: complete it")
    return Shape(split / "complete" / category / f"{model}.pcd", partial)


def _header(file: Path, content: bytes) -> tuple[dict[str, Sequence[str]], str, bytes]:
    """Return the header's entries, how the data are written, and the data."""
    match = re.search(rb"^DATA (ascii|binary|binary_compressed)\r?\n", content, re.MULTILINE)
    if match is None:
        raise UsageError(f"{file} is no PCD file: it has no line DATA ascii, binary or binary_compressed")
    lines = content[: match.start()].decode(errors="replace").splitlines()
    entries: dict[str, Sequence[str]] = {}
    for line in lines:
        name, *values = line.split() or [""]
        entries[name] = values
    missing = [name for name in ("FIELDS", "SIZE", "TYPE", "POINTS") if not entries.get(name)]
    if missing or not set("xyz") <= set(entries["FIELDS"]):
        raise UsageError(f"{file} is no PCD file of points: its header lacks {', '.join(missing) or 'x, y or z'}")
    return entries, match[1].decode(), content[match.end() :]


def _fields(record: Any, content: bytes, count: int) -> dict[str, Array]:
    """Return the fields of compressed data, which follow one another, each for all points."""
    fields, start = {}, 0
    for name in record.names:
        field = record[name]
        fields[name] = np.frombuffer(content, field.base, count * (field.itemsize // field.base.itemsize), start)
        start += count * field.itemsize
    return fields


def _decompressed(body: bytes) -> bytes:
    """Undo LZF (Lehmann's liblzf, which PCD names): two sizes, then literal runs and references to earlier bytes."""
    if len(body) < 8:
        raise ValueError("its compressed data have no sizes")
    packed, size = (int(number) for number in np.frombuffer(body, "<u4", 2))
    source = np.frombuffer(body, np.uint8, packed, 8)
    out = np.empty(size, np.uint8)
    if _lzf(source, out) != size:
        raise ValueError("its compressed data end early")
    return out.tobytes()


@njit(cache=True, nogil=True)
def _lzf(source: Any, out: Any) -> int:
    """Fill `out`, and return how many bytes there were; -1 where the data are damaged."""
    i = written = 0
    while i < len(source):
        control = int(source[i])
        i += 1
        if control < 32:  # a run of control + 1 bytes
            length = control + 1
            if i + length > len(source) or written + length > len(out):
                return -1
            for j in range(length):
                out[written + j] = source[i + j]
            i += length
        else:
            length = control >> 5
            if length == 7:
                if i >= len(source):
                    return -1
                length += int(source[i])
                i += 1
            length += 2
            if i >= len(source):
                return -1
            start = written - ((control & 31) << 8) - int(source[i]) - 1
            i += 1
            if start < 0 or written + length > len(out):
                return -1
            for j in range(length):  # byte by byte: a reference may reach into what it writes
                out[written + j] = out[start + j]
        written += length
    return written
