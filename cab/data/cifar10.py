"""CIFAR-10 (Krizhevsky, 2009) as released: `cifar-10-batches-py` (pickles) or `cifar-10-batches-bin`, six batches.

Images come out grey, as Long Range Arena makes them.
"""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cab.data.download import alone, download, placed, unfinished, unpack
from cab.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

URL = "https://www.cs.toronto.edu/~kriz/"
# folder -> the archive that it comes in, and its hash
ARCHIVES = {
    "cifar-10-batches-bin": ("cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),
    "cifar-10-batches-py": ("cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"),
}
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
SIZE = 10_000  # images in a batch
PIXELS = 32 * 32
# what the release's pickles are made of, by the names of 2009
_PICKLED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}


def fetch(folder: Path, command: str) -> None:
    """Bring a tree into `folder`: from an archive that lies there, else downloaded. `command` is what a user types."""
    with alone(folder):
        if find(folder, command, begun=False) is not None:
            return
        there = [tree for tree, (archive, _) in ARCHIVES.items() if (folder / archive).is_file()]
        tree = (there or list(ARCHIVES))[0]
        archive, known_hash = ARCHIVES[tree]
        if there and _hash(folder / archive) != known_hash:
            raise UsageError(
                f"{folder / archive} is truncated or damaged: its hash is {_hash(folder / archive)}, not {known_hash}. "
                f"Delete it, and run `{command}` to download it."
            )
        file = download(URL + archive, known_hash, folder)
        with placed(folder / tree) as beside:
            unpack(file, beside, lambda name: name.removeprefix(f"{tree}/") if name.startswith(f"{tree}/") else None)
            _complete(beside, command)


def find(folder: Path, command: str, begun: bool = True) -> Path | None:
    """Return the tree in `folder`, or None; `UsageError` where batches are missing or a download was only begun."""
    for tree in ARCHIVES:
        if (folder / tree).exists():
            _complete(folder / tree, command)
            return folder / tree
    for archive, _ in ARCHIVES.values():
        left = unfinished(folder, archive)
        if left is None and (folder / archive).exists():
            left = f"{folder / archive}, not yet unpacked"
        if begun and left:
            raise UsageError(
                f"{folder} has {left}. Run `{command}` to finish, or delete the file to do without CIFAR-10."
            )
    return None


def read(tree: Path, part: str) -> tuple[Array, Array]:
    """Read "train" or "test" in the order of the batches: grey pixels (images, 1024) and labels (images,)."""
    images, labels = zip(*(_batch(tree, name) for name in BATCHES[part]), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def grey(images: Array) -> Array:
    """Turn (images, 3, pixels) into grey bytes as `tf.image.rgb_to_grayscale` does, but for its rounding of floats."""
    red, green, blue = images.astype(np.int64).transpose(1, 0, 2)
    found: Array = (2989 * red + 5870 * green + 1140 * blue) * 511 // 5_100_000
    return found.astype(np.uint8)


def _batch(tree: Path, name: str) -> tuple[Array, Array]:
    binary = tree.name.endswith("bin")
    file = tree / (f"{name}.bin" if binary else name)
    try:
        raw = file.read_bytes()
        if binary:
            table = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * PIXELS)
            images, labels = table[:, 1:], table[:, 0]
        else:
            content = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
            images, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
        if images.shape != (SIZE, 3 * PIXELS) or images.dtype != np.uint8 or labels.shape != (SIZE,):
            raise ValueError
        if labels.min() < 0 or labels.max() > 9:
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, IndexError, pickle.UnpicklingError):
        raise UsageError(
            f"{file} is not a batch of CIFAR-10: {SIZE:,} colour images of 32 x 32 and their labels. It is truncated "
            "or damaged: bring it again."
        ) from None
    return grey(images.reshape(-1, 3, PIXELS)), labels.astype(np.int64)


class _Unpickler(pickle.Unpickler):
    """Reads arrays, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(*_PICKLED[module, name])


def _complete(tree: Path, command: str) -> None:
    suffix = ".bin" if any(tree.glob("*.bin")) else ""
    missing = [
        f"{name}{suffix}" for names in BATCHES.values() for name in names if not (tree / f"{name}{suffix}").is_file()
    ]
    if missing:
        raise UsageError(f"{tree} lacks {', '.join(missing)}. Complete it, or move it away and run `{command}`.")


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return f"md5:{hashlib.file_digest(opened, 'md5').hexdigest()}"
