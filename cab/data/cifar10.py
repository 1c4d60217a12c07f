"""CIFAR-10 (Krizhevsky, 2009) as released for C programs: six binary batches in `cifar-10-batches-bin`.

Images come out grey, as Long Range Arena makes them. The release for Python is pickled, and what is pickled can run
anything: it is not read.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cab.data.download import alone, download, placed, unfinished, unpack
from cab.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

URL = "https://www.cs.toronto.edu/~kriz/"
ARCHIVE = "cifar-10-binary.tar.gz"
HASH = "md5:c32a1d4ab5d03f1284b67883e8d87530"
TREE, PICKLED = "cifar-10-batches-bin", "cifar-10-batches-py"
BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
SIZE = 10_000  # images in a batch
PIXELS = 32 * 32


def fetch(folder: Path, command: str) -> None:
    """Bring the tree into `folder`: from an archive that lies there, else downloaded. `command` is what users type."""
    with alone(folder):
        if (folder / TREE).exists():
            _complete(folder / TREE, command)
            return
        file = folder / ARCHIVE
        if file.is_file() and _hash(file) != HASH:
            raise UsageError(
                f"{file} is truncated or damaged: its hash is {_hash(file)}, not {HASH}. "
                f"Delete it, and run `{command}` to download it."
            )
        file = download(URL + ARCHIVE, HASH, folder)
        with placed(folder / TREE) as beside:
            unpack(file, beside, lambda name: name.removeprefix(f"{TREE}/") if name.startswith(f"{TREE}/") else None)
            _complete(beside, command)


def find(folder: Path, command: str) -> Path | None:
    """Return the tree in `folder`, or None; `UsageError` where batches are missing or a download was only begun."""
    if (folder / TREE).exists():
        _complete(folder / TREE, command)
        return folder / TREE
    left = unfinished(folder, ARCHIVE)
    if left is None and (folder / ARCHIVE).exists():
        left = f"{folder / ARCHIVE}, not yet unpacked"
    if left:
        raise UsageError(f"{folder} has {left}. Run `{command}` to finish, or delete the file to do without CIFAR-10.")
    if (folder / PICKLED).exists():
        raise UsageError(
            f"{folder / PICKLED} is CIFAR-10 as pickles, which can run anything and are not read. `{command}` brings "
            f"the binary release ({TREE}); move the other away to do without CIFAR-10."
        )
    return None


def read(tree: Path, part: str) -> tuple[Array, Array]:
    """Read "train" or "test" in the order of the batches: grey pixels (images, 1024) and labels (images,)."""
    images, labels = zip(*(_batch(tree / name) for name in BATCHES[part]), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def grey(images: Array) -> Array:
    """Turn (images, 3, pixels) into grey bytes as `tf.image.rgb_to_grayscale` does, but for its rounding of floats."""
    red, green, blue = images.astype(np.int64).transpose(1, 0, 2)
    found: Array = (2989 * red + 5870 * green + 1140 * blue) * 511 // 5_100_000
    return found.astype(np.uint8)


def _batch(file: Path) -> tuple[Array, Array]:
    """Read a batch: of each image one byte of label, then its red, green and blue pixels."""
    raw = file.read_bytes()
    if len(raw) != SIZE * (1 + 3 * PIXELS) or max(raw[:: 1 + 3 * PIXELS]) > 9:
        raise UsageError(
            f"{file} is not a batch of CIFAR-10: {SIZE:,} colour images of 32 x 32 and their labels. It is truncated "
            "or damaged: bring it again."
        )
    table = np.frombuffer(raw, np.uint8).reshape(SIZE, 1 + 3 * PIXELS)
    return grey(table[:, 1:].reshape(SIZE, 3, PIXELS)), table[:, 0].astype(np.int64)


def _complete(tree: Path, command: str) -> None:
    missing = [name for names in BATCHES.values() for name in names if not (tree / name).is_file()]
    if missing:
        raise UsageError(f"{tree} lacks {', '.join(missing)}. Complete it, or move it away and run `{command}`.")


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return f"md5:{hashlib.file_digest(opened, 'md5').hexdigest()}"
