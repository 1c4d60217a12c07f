"""Fashion-MNIST (Xiao et al., arXiv 1708.07747) as released: four gzipped files in `fashion-mnist`.

They come out of Debian's package of them. Images are padded with black from 28 by 28 to 32 by 32 pixels.
"""

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cab.data import debian
from cab.data.download import alone, placed
from cab.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

FOLDER = "fashion-mnist"
PACKAGE, INSIDE = "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist/"
# file -> SHA-256 of what is in it: packed again, as Debian does, the file itself is another
FILES = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
NAMES = {"train": "train", "test": "t10k"}
MARGIN = 2  # pixels on each side


def fetch(folder: Path) -> None:
    """Bring the four files into `folder`, 31 MB, through apt."""
    target = folder / FOLDER
    with alone(folder):
        if target.exists():
            for name in FILES:
                _content(target / name)
            return
        with debian.packages([PACKAGE]) as found, placed(target) as beside:
            for name, content in debian.files(found[PACKAGE][1], INSIDE):
                (beside / name).write_bytes(content)
            for name in FILES:
                _content(beside / name)


def read(tree: Path, part: str) -> tuple[Array, Array]:
    """Read "train" or "test": pixels (images, 1024) and labels (images,)."""
    prefix = NAMES[part]
    images = np.frombuffer(_content(tree / f"{prefix}-images-idx3-ubyte.gz"), np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer(_content(tree / f"{prefix}-labels-idx1-ubyte.gz"), np.uint8, offset=8)
    padded = np.pad(images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    return padded.reshape(len(images), -1), labels.astype(np.int64)


def _content(file: Path) -> bytes:
    try:
        content = gzip.decompress(file.read_bytes())
        wrong = hashlib.sha256(content).hexdigest() != FILES[file.name]
    except (OSError, EOFError, zlib.error) as error:
        content, wrong = b"", True
        if not file.is_file():
            raise UsageError(f"{file} cannot be read: {error}. Move {file.parent} away, and get it again.") from None
    if wrong:
        raise UsageError(f"{file} is truncated or damaged. Move {file.parent} away, and get it again.")
    return content
