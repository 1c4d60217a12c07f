"""LRA Text (Tay et al., arXiv 2011.04006, section 2.2): is a film review positive? Read byte by byte.

    x  84 105 116 115  33   0   0   0      "Shr " + ... : each byte + 1; 0 is padding; 257 ids in all
    target 1                               1 positive, 0 negative

The reviews are IMDB's (Maas et al., ACL 2011). With class-token pooling that token is one of the `seq_len`.
`protocol=lra` keeps two quirks of the released code: `padding-is-pooled` (where pooling is mean or max) and
`validation-is-test` (the test split chooses the checkpoint, and all other reviews are trained on).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cab import Missing, Source
from cab.data import imdb
from cab.data.splits import part
from cab.suites.classification import Classification
from cab.suites.floors import frequencies, histograms, majority, ridge

COMMAND = "cab data get lra_text"
# parts of the reviews that come without a split of that name, by content
OF_TRAIN = {"validation": 0.1, "train": 0.9}
OF_ALL = {"test": 0.1, "validation": 0.1, "train": 0.8}


class Reviews:
    """A split: item i is (bytes, label), the bytes cut to `most`."""

    def __init__(self, reviews: Sequence[imdb.Review], most: int) -> None:
        self.reviews, self.most = reviews, most
        self.lengths = [min(len(text), most) for text, _ in reviews]

    def __len__(self) -> int:
        return len(self.reviews)

    def __getitem__(self, index: int, /) -> imdb.Review:
        text, label = self.reviews[index]
        return text[: self.most], label


class LraText(Classification):
    """Sentiment of IMDB reviews from bytes, with a transformer encoder."""

    vocabulary = 257
    data = ("aclImdb",)

    def fetch(self, folder: Path) -> None:
        """Download the official tree, 84 MB."""
        imdb.fetch(folder, COMMAND)

    def source(self, folder: Path) -> Source | Missing:
        """Take the official tree in `folder`, else the reviews of the installed package."""
        tree = imdb.find_tree(folder, COMMAND)
        if tree is not None:
            found = imdb.tree_counts(tree, COMMAND)
            shared = _shares(imdb.read_tree(tree, "train"), OF_TRAIN) | {"test": imdb.read_tree(tree, "test")}
            whole = all(0.999 * imdb.OFFICIAL <= count <= imdb.OFFICIAL for count in found.values())
            note = f"{found['train']:,} training and {found['test']:,} test reviews of {imdb.OFFICIAL:,} each"
            return self._keep(shared, imdb.TREE, whole, f"{note}; a tenth of training is for validation")
        file = imdb.package_file()
        if file is None:
            return Missing(f"{COMMAND}, or pip install {imdb.PACKAGE}=={imdb.VERSION}")
        note = "the official training reviews, split by content; the official test reviews are not in the package"
        return self._keep(_shares(imdb.read_package(file), OF_ALL), f"{imdb.PACKAGE} {imdb.VERSION}", False, note)

    def _keep(self, shared: dict[str, list[imdb.Review]], name: str, comparable: bool, note: str) -> Source:
        if self.as_released:
            shared = {
                "train": shared["train"] + shared["validation"],
                "validation": shared["test"],
                "test": shared["test"],
            }
        self.splits = {split: Reviews(reviews, self.room) for split, reviews in shared.items()}
        return Source(name, comparable, self.counts(), note)

    def ids(self, content: bytes) -> Any:
        """Shift each byte by one."""
        return np.frombuffer(content, np.uint8).astype(np.int64) + 1

    def floors(self) -> dict[str, dict[str, float]]:
        """Test accuracy of the majority class, and of ridge regression on how often each byte occurs."""
        (train, train_labels), (test, test_labels) = (_bytes(self.split(name, 0)) for name in ("train", "test"))
        return {
            "majority class": {"accuracy": majority(train_labels, test_labels)},
            "byte frequencies": {"accuracy": ridge((train, train_labels), (test, test_labels))},
        }


def _bytes(split: Reviews) -> tuple[Any, Any]:
    counts = histograms(np.frombuffer(split[i][0], np.uint8) for i in range(len(split)))
    return frequencies(counts), np.array([label for _, label in split.reviews])


def _shares(reviews: Sequence[imdb.Review], shares: dict[str, float]) -> dict[str, list[imdb.Review]]:
    found: dict[str, list[imdb.Review]] = {name: [] for name in shares}
    for review in reviews:
        found[part(review[0], shares)].append(review)
    return found
