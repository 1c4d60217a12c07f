"""LRA Text (Tay et al., arXiv 2011.04006, section 2.2): is a film review positive? Read byte by byte.

    x  84 105 116 115  33   0   0   0      "Shr " + ... : each byte + 1; 0 is padding; 257 ids in all
    target 1                               1 positive, 0 negative

The reviews are IMDB's (Maas et al., ACL 2011). With class-token pooling that token is one of the `seq_len`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Missing, Pattern, Source, Task
from cab.backbones.encoder import POOLINGS, Classifier, Encoder
from cab.contracts.task import Attention
from cab.data import imdb
from cab.data.splits import part
from cab.errors import unknown

VOCABULARY = 257
MULTIPLE = 64  # trimmed batches have a multiple of this many tokens, so that few shapes occur
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


class LraText(Task):
    """Sentiment of IMDB reviews from bytes, with a transformer encoder."""

    slots = ("NS",)
    metrics = {"accuracy": ("fraction", True)}
    paper = "arXiv 2011.04006"
    data = ("aclImdb",)

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        layers: int = 2,
        width: int | None = None,
        mlp: int = 128,
        dropout: float = 0.1,
        norm: str = "pre",
        positions: str = "learned",
        pooling: str = "mean",
        embedding_std: float = 1.0,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if pooling not in POOLINGS:
            raise unknown("pooling of lra_text", pooling, POOLINGS)
        self.pooling, self.cls = pooling, pooling == "cls"
        if seq_len <= self.cls:
            raise ValueError(f"seq_len={seq_len}: with a class token at least 2 are needed")
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "layers": layers,
            "width": width,
            "mlp": mlp,
            "dropout": dropout,
            "norm": norm,
            "positions": positions,
            "embedding_std": embedding_std,
        }
        self.splits: dict[str, Reviews] = {}

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
        self.splits = {split: Reviews(reviews, self.seq_len - self.cls) for split, reviews in shared.items()}
        counts = {split: len(self.splits[split]) for split in ("train", "validation", "test")}
        return Source(name, comparable, counts, note)

    def split(self, name: str, seed: int) -> Reviews:
        """Return a split of what `source` found; no split depends on the seed."""
        if name not in self.splits:
            raise unknown("split", name, self.splits, "" if self.splits else "Call source(folder) first.")
        return self.splits[name]

    def collate(self, examples: Sequence[imdb.Review], trim: bool = False) -> Batch:
        """Shift each byte by one and pad with 0."""
        length = self.seq_len
        if trim:
            longest = max(len(text) for text, _ in examples) + self.cls
            length = min(length, -(-longest // MULTIPLE) * MULTIPLE)
        x = np.zeros((len(examples), length - self.cls), dtype=np.int64)
        for row, (text, _) in zip(x, examples, strict=True):
            row[: len(text)] = np.frombuffer(text, dtype=np.uint8)
            row[: len(text)] += 1
        ids = torch.from_numpy(x)
        return Batch(ids, ids > 0, target=torch.tensor([label for _, label in examples]))

    def model(self, attention: Attention) -> nn.Module:
        """Build the encoder and a head with one hidden layer as wide as the feed-forward ones."""
        encoder = Encoder(
            attention, Pattern.NS, vocabulary=VOCABULARY, max_len=self.seq_len, cls=self.cls, **self.sizes
        )
        return Classifier(encoder, classes=2, hidden=self.sizes["mlp"], pooling=self.pooling)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(batch.x, batch.x_mask, batch.inputs).float(), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """1 where the likelier class is right."""
        chosen = model(batch.x, batch.x_mask, batch.inputs).argmax(-1)
        return {"accuracy": (chosen == batch.target).float()}

    def floors(self) -> dict[str, dict[str, float]]:
        """Test accuracy of the majority class, and of ridge regression on how often each byte occurs."""
        train, test = self.split("train", 0), self.split("test", 0)
        share = sum(label for _, label in test.reviews) / len(test)
        return {
            "majority class": {"accuracy": max(share, 1 - share)},
            "byte frequencies": {"accuracy": _ridge(train, test)},
        }


def _shares(reviews: Sequence[imdb.Review], shares: dict[str, float]) -> dict[str, list[imdb.Review]]:
    found: dict[str, list[imdb.Review]] = {name: [] for name in shares}
    for review in reviews:
        found[part(review[0], shares)].append(review)
    return found


def _ridge(train: Reviews, test: Reviews, penalty: float = 1e-3) -> float:
    """Fit on train, return the accuracy on test. The features are standardised square roots of frequencies."""
    (a, label_a), (b, label_b) = _frequencies(train), _frequencies(test)
    centre, spread = a.mean(0), a.std(0)
    spread[spread == 0] = np.inf  # a byte that train cannot say anything about
    a, b = (a - centre) / spread, (b - centre) / spread
    sign = 2 * label_a - 1
    weights = np.linalg.solve(a.T @ a + penalty * len(a) * np.eye(a.shape[1]), a.T @ (sign - sign.mean()))
    return float(((b @ weights + sign.mean() > 0) == label_b).mean())


def _frequencies(split: Reviews) -> Any:
    counts = np.stack([np.bincount(np.frombuffer(split[i][0], np.uint8), minlength=256) for i in range(len(split))])
    return np.sqrt(counts / counts.sum(1, keepdims=True)), np.array([label for _, label in split.reviews])
