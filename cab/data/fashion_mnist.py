"""Fashion-MNIST (Xiao et al., arXiv 1708.07747) as released: four gzipped files in `fashion-mnist`.

They come from a Debian package. Images are padded with black from 28 by 28 to 32 by 32 pixels.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cab.data import debian
from cab.data.download import atomic_folder, folder_lock, gunzip
from cab.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

FOLDER = "fashion-mnist"
PACKAGE, PACKAGE_FOLDER = "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist/"
# file -> SHA-256 of its uncompressed content: Debian has compressed the files anew
FILES = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
MOST_BYTES = 16 + 60_000 * 28 * 28  # of the largest of them, uncompressed
PREFIXES = {"train": "train", "test": "t10k"}
MARGIN = 2  # black pixels on each side


def fetch(folder: Path) -> None:
    """Bring the four files into `folder`, 31 MB, through apt."""
    target = folder / FOLDER
    with folder_lock(folder):
        if target.exists():
            for name in FILES:
                _read_verified(target / name)
            return
        with debian.packages([PACKAGE]) as packages, atomic_folder(target) as temporary:
            _, package = packages[PACKAGE]
            for name, content in debian.files(package, PACKAGE_FOLDER):
                if name in FILES:
                    (temporary / name).write_bytes(content)
            for name in FILES:
                _read_verified(temporary / name)


def read(tree: Path, split: str) -> tuple[Array, Array]:
    """Read "train" or "test": pixels (images, 1024) and labels (images,)."""
    prefix = PREFIXES[split]
    image_bytes = _read_verified(tree / f"{prefix}-images-idx3-ubyte.gz")
    label_bytes = _read_verified(tree / f"{prefix}-labels-idx1-ubyte.gz")
    images = np.frombuffer(image_bytes, np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer(label_bytes, np.uint8, offset=8)
    padded = np.pad(images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    return padded.reshape(len(images), -1), labels.astype(np.int64)


def _read_verified(file: Path) -> bytes:
    """Return a file's uncompressed content; `UsageError` where it is not the known one."""
    try:
        content = gunzip(file.read_bytes(), MOST_BYTES)
        damaged = hashlib.sha256(content).hexdigest() != FILES[file.name]
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error}. Move {file.parent} away, and get it again.") from None
    except ValueError:
        content, damaged = b"", True
    if damaged:
        raise UsageError(f"{file} is truncated or damaged. Move {file.parent} away, and get it again.")
    return content
