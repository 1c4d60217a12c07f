"""LRA Text (Tay et al., arXiv 2011.04006, section 2.2): is a film review positive? Read byte by byte.

    x  84 105 116 115  33   0   0   0      "Shr " + ... : each byte + 1; 0 is padding; 257 ids in all
    target 1                               1 positive, 0 negative

The reviews are IMDB's (Maas et al., ACL 2011). With pooling cls the class token is one of the `seq_len` tokens.
`protocol=lra` has two quirks of the released code: `padding-is-pooled` (where pooling is mean or max) and
`validation-is-test` (the best weights are chosen on the test split, and all other reviews are trained on).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cab import Missing, Source
from cab.data import imdb
from cab.data.splits import split_of
from cab.suites.classification import Classification
from cab.suites.floors import histograms, majority_accuracy, ridge_accuracy, root_frequencies

COMMAND = "cab data get lra_text"
# shares of the splits: of the official tree's training reviews, and of the package's reviews
TREE_SHARES = {"validation": 0.1, "train": 0.9}
PACKAGE_SHARES = {"test": 0.1, "validation": 0.1, "train": 0.8}


class Reviews:
    """A split: item i is (bytes, label), the bytes cut to `max_bytes`."""

    def __init__(self, reviews: Sequence[imdb.Review], max_bytes: int) -> None:
        self.reviews, self.max_bytes = reviews, max_bytes
        self.lengths = [min(len(text), max_bytes) for text, _ in reviews]

    def __len__(self) -> int:
        return len(self.reviews)

    def __getitem__(self, index: int, /) -> imdb.Review:
        text, label = self.reviews[index]
        return text[: self.max_bytes], label


class LraText(Classification):
    """The sentiment of IMDB reviews from their bytes, with a transformer encoder."""

    vocabulary = 257
    data = ("aclImdb",)

    def fetch(self, folder: Path) -> None:
        """Download the official tree, 84 MB."""
        imdb.fetch(folder, COMMAND)

    def source(self, folder: Path) -> Source | Missing:
        """Use the official tree in `folder`; without it, the reviews of the installed package."""
        tree = imdb.find_tree(folder, COMMAND)
        if tree is not None:
            counts = imdb.tree_counts(tree, COMMAND)
            splits = _split(imdb.read_tree(tree, "train"), TREE_SHARES) | {"test": imdb.read_tree(tree, "test")}
            complete = all(0.999 * imdb.OFFICIAL <= count <= imdb.OFFICIAL for count in counts.values())
            note = f"{counts['train']:,} training and {counts['test']:,} test reviews of {imdb.OFFICIAL:,} each"
            return self._use(splits, imdb.TREE, complete, f"{note}; a tenth of training is for validation")
        file = imdb.package_file()
        if file is None:
            return Missing(f"{COMMAND}, or pip install {imdb.PACKAGE}=={imdb.VERSION}")
        note = "the official training reviews, split by content; the official test reviews are not in the package"
        return self._use(_split(imdb.read_package(file), PACKAGE_SHARES), f"{imdb.PACKAGE} {imdb.VERSION}", False, note)

    def _use(self, splits: dict[str, list[imdb.Review]], name: str, comparable: bool, note: str) -> Source:
        if self.as_released:
            splits = {
                "train": splits["train"] + splits["validation"],
                "validation": splits["test"],
                "test": splits["test"],
            }
        self.splits = {split: Reviews(reviews, self.max_tokens) for split, reviews in splits.items()}
        return Source(name, comparable, self.counts(), note)

    def ids(self, content: bytes) -> Any:
        """Return each byte + 1."""
        return np.frombuffer(content, np.uint8).astype(np.int64) + 1

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the accuracies of the majority class, and of a ridge regression on byte frequencies."""
        (train, train_labels), (test, test_labels) = (_features(self.split(name, 0)) for name in ("train", "test"))
        return {
            "majority class": {"accuracy": majority_accuracy(train_labels, test_labels)},
            "byte frequencies": {"accuracy": ridge_accuracy((train, train_labels), (test, test_labels))},
        }


def _features(split: Reviews) -> tuple[Any, Any]:
    """Return the byte frequencies (reviews, 256) and the labels (reviews,) of a split."""
    counts = histograms(np.frombuffer(split[i][0], np.uint8) for i in range(len(split)))
    return root_frequencies(counts), np.array([label for _, label in split.reviews])


def _split(reviews: Sequence[imdb.Review], shares: dict[str, float]) -> dict[str, list[imdb.Review]]:
    """Split reviews by their text."""
    splits: dict[str, list[imdb.Review]] = {name: [] for name in shares}
    for review in reviews:
        splits[split_of(review[0], shares)].append(review)
    return splits
