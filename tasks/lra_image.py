"""LRA Image (Tay et al., arXiv 2011.04006, section 2.4): what is on a small grey image? Pixel by pixel.

    x  61 60 62 ... 118     ids 0 to 255: the 1,024 pixels of a 32 by 32 image, row by row
    target 3                one of 10 classes

The data are CIFAR-10 as released. Without it they are Fashion-MNIST, which is another task and is marked so. The last
tenth of training is for validation. `protocol=lra` has two quirks of the released code: `zero-is-padding` (black pixels
are masked as if they were padding) and `padding-is-pooled` (where pooling is mean or max).
"""

from pathlib import Path
from typing import Any

import numpy as np

from cab import Missing, Source
from cab.data import cifar10, fashion_mnist
from cab.errors import unknown
from cab.suites.floors import histograms, majority_accuracy, ridge_accuracy, root_frequencies
from cab.suites.pixels import PixelClassification

COMMAND = "cab data get lra_image"
FASHION_COMMAND = f"{COMMAND} --source fashion-mnist"
SOURCES = ("cifar-10", "fashion-mnist")


class Images:
    """A split: item i is (pixels row by row, label)."""

    def __init__(self, pixels: Any, labels: Any) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[Any, int]:
        return self.pixels[index], int(self.labels[index])


class LraImage(PixelClassification):
    """Grey images of ten classes, with a transformer encoder; `seq_len` is 1,024, or 1,025 with a class token."""

    classes = 10
    tokens = 1024
    data = ("cifar-10-batches-bin", "fashion-mnist")

    def source(self, folder: Path) -> Source | Missing:
        """Use CIFAR-10 in `folder`; without it, Fashion-MNIST there."""
        tree = cifar10.find(folder, COMMAND)
        if tree is not None:
            return self._use(cifar10.read(tree, "train"), cifar10.read(tree, "test"), "CIFAR-10", True, str(tree))
        tree = folder / fashion_mnist.FOLDER
        if not tree.exists():
            return Missing(f"{COMMAND} (CIFAR-10, 170 MB), or {FASHION_COMMAND} (Debian's package, 31 MB)")
        note = f"another task than CIFAR-10, padded from 28 x 28 pixels; {tree}"
        train, test = fashion_mnist.read(tree, "train"), fashion_mnist.read(tree, "test")
        return self._use(train, test, "Fashion-MNIST", False, note)

    def _use(self, train: Any, test: Any, name: str, comparable: bool, note: str) -> Source:
        count = len(train[1]) * 9 // 10
        self.splits = {
            "train": Images(*(array[:count] for array in train)),
            "validation": Images(*(array[count:] for array in train)),
            "test": Images(*test),
        }
        return Source(name, comparable, self.counts(), f"the last tenth of training is for validation; {note}")

    def fetch(self, folder: Path, *, source: str = "cifar-10") -> None:
        """Bring CIFAR-10, from the internet, or Fashion-MNIST, through apt."""
        if source not in SOURCES:
            raise unknown("source", source, SOURCES)
        if source == "cifar-10":
            cifar10.fetch(folder, COMMAND)
        else:
            fashion_mnist.fetch(folder)

    def floors(self) -> dict[str, dict[str, float]]:
        """Return chance, and the accuracies of the majority class and of a ridge regression on pixel histograms."""
        train, test = self.split("train", 0), self.split("test", 0)
        features = [(root_frequencies(histograms(split.pixels)), np.asarray(split.labels)) for split in (train, test)]
        return {
            "chance": {"accuracy": 0.1},
            "majority class": {"accuracy": majority_accuracy(train.labels, test.labels)},
            "pixel intensities": {"accuracy": ridge_accuracy(*features)},
        }
