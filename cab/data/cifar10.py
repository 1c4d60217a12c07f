"""CIFAR-10 (Krizhevsky, 2009) as released for C programs: six binary batches in `cifar-10-batches-bin`.

Images are converted to grey, as in Long Range Arena. The release for Python is pickled, and reading a pickle can run
any code: it is refused.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cab.data.download import atomic_folder, download, folder_lock, interrupted_download, unpack
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
    """Bring the release into `folder`, from its archive there or from the internet.

    `command` is what a user types to call this; messages name it.
    """
    with folder_lock(folder):
        if (folder / TREE).exists():
            _check_complete(folder / TREE, command)
            return
        archive = folder / ARCHIVE
        if archive.is_file() and _hash(archive) != HASH:
            raise UsageError(
                f"{archive} is truncated or damaged: its hash is {_hash(archive)}, not {HASH}. "
                f"Delete it, and run `{command}` to download it."
            )
        archive = download(URL + ARCHIVE, HASH, folder)
        with atomic_folder(folder / TREE) as temporary:
            prefix = f"{TREE}/"
            unpack(archive, temporary, lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None)
            _check_complete(temporary, command)


def find(folder: Path, command: str) -> Path | None:
    """Return the release's folder in `folder`, or None.

    `UsageError` where batches are missing, a download is unfinished, or there is only the pickled release.
    """
    if (folder / TREE).exists():
        _check_complete(folder / TREE, command)
        return folder / TREE
    unfinished = interrupted_download(folder, ARCHIVE)
    if unfinished is None and (folder / ARCHIVE).exists():
        unfinished = f"{folder / ARCHIVE}, not yet unpacked"
    if unfinished:
        raise UsageError(
            f"{folder} has {unfinished}. Run `{command}` to finish, or delete the file to do without CIFAR-10."
        )
    if (folder / PICKLED).exists():
        raise UsageError(
            f"{folder / PICKLED} is CIFAR-10 as pickles, which can run anything and are not read. `{command}` brings "
            f"the binary release ({TREE}); move the other away to do without CIFAR-10."
        )
    return None


def read(tree: Path, split: str) -> tuple[Array, Array]:
    """Read "train" or "test" in the order of the batches: grey pixels (images, 1024) and labels (images,)."""
    images, labels = zip(*(_read_batch(tree / name) for name in BATCHES[split]), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def grey(images: Array) -> Array:
    """Convert RGB (images, 3, pixels) to grey (images, pixels), in integers.

    The result is that of `tf.image.rgb_to_grayscale`, which differs by 1 where its floats round the other way.
    """
    red, green, blue = images.astype(np.int64).transpose(1, 0, 2)
    pixels: Array = (2989 * red + 5870 * green + 1140 * blue) * 511 // 5_100_000
    return pixels.astype(np.uint8)


def _read_batch(file: Path) -> tuple[Array, Array]:
    """Read a batch: each image is one byte of label, then its red, green and blue pixels."""
    content = file.read_bytes()
    if len(content) != SIZE * (1 + 3 * PIXELS) or max(content[:: 1 + 3 * PIXELS]) > 9:
        raise UsageError(
            f"{file} is not a batch of CIFAR-10: {SIZE:,} colour images of 32 x 32 and their labels. It is truncated "
            "or damaged: replace it."
        )
    table = np.frombuffer(content, np.uint8).reshape(SIZE, 1 + 3 * PIXELS)
    return grey(table[:, 1:].reshape(SIZE, 3, PIXELS)), table[:, 0].astype(np.int64)


def _check_complete(tree: Path, command: str) -> None:
    missing = [name for names in BATCHES.values() for name in names if not (tree / name).is_file()]
    if missing:
        raise UsageError(f"{tree} lacks {', '.join(missing)}. Complete it, or move it away and run `{command}`.")


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return f"md5:{hashlib.file_digest(opened, 'md5').hexdigest()}"
