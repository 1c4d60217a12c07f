"""Classifying sequences with an encoder: what the tasks of Long Range Arena have in common but for their data.

`protocol=lra` keeps the released code's quirk `padding-is-pooled` where pooling is mean or max, and those that a task
names. Everything else of the release is in `scale=paper`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab.backbones.encoder import POOLINGS, Classifier, Encoder
from cab.backbones.quirks import PaddingPoolingClassifier, check_protocol
from cab.contracts.pattern import Pattern
from cab.contracts.task import Attention, Batch, Task
from cab.errors import unknown

MULTIPLE = 64  # trimmed batches have a multiple of this many tokens, so that few shapes occur
Array = np.ndarray[Any, np.dtype[Any]]


class Classification(Task):
    """Examples are (content, label). A task fills `splits` in `source`, and says what ids a content has."""

    slots = ("NS",)
    metrics = {"accuracy": ("fraction", True)}
    paper = "arXiv 2011.04006"
    vocabulary: ClassVar[int]
    classes: ClassVar[int] = 2
    tokens: ClassVar[int] = 0  # of every example, where all have as many

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        protocol: str = "clean",
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
            raise unknown("pooling", pooling, POOLINGS)
        self.pooling, self.cls = pooling, pooling == "cls"
        self.room = seq_len - self.cls  # for tokens beside the class token
        if self.room < 1:
            raise ValueError(f"seq_len={seq_len}: with a class token at least 2 are needed")
        if self.tokens not in (0, self.room):
            raise ValueError(
                f"seq_len={seq_len}: with pooling={pooling} it is {self.tokens + self.cls}, and nothing else"
            )
        check_protocol(protocol)
        self.as_released = protocol == "lra"
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
        self.splits: dict[str, Any] = {}

    def counts(self) -> dict[str, int]:
        """Count the examples of each split."""
        return {name: len(self.splits[name]) for name in ("train", "validation", "test")}

    def split(self, name: str, seed: int) -> Any:
        """Return a split of what `source` found; no split depends on the seed."""
        if name not in self.splits:
            raise unknown("split", name, self.splits, "" if self.splits else "Call source(folder) first.")
        return self.splits[name]

    def ids(self, content: Any) -> Array:
        """Return the ids of an example's content, from 1 up where it may be padded."""
        return content  # type: ignore[no-any-return]

    def padded(self, contents: Sequence[Any], trim: bool) -> Tensor:
        """Put ids together, (batch, n), and pad them with 0."""
        rows = [self.ids(content) for content in contents]
        length = self.room
        if trim and not (self.as_released and not self.cls):  # pooled padding counts, so there must be all of it
            longest = max(len(row) for row in rows) + self.cls
            length = min(length, -(-longest // MULTIPLE) * MULTIPLE - self.cls)
        x = np.zeros((len(rows), length), dtype=np.int64)
        for place, row in zip(x, rows, strict=True):
            place[: len(row)] = row
        return torch.from_numpy(x)

    def collate(self, examples: Sequence[Any], trim: bool = False) -> Batch:
        """Pad with 0."""
        x = self.padded([content for content, _ in examples], trim)
        return Batch(x, x > 0, target=targets(examples))

    def encoder(self, attention: Attention) -> Encoder:
        """Build the encoder."""
        return Encoder(
            attention, Pattern.NS, vocabulary=self.vocabulary, max_len=self.seq_len, cls=self.cls, **self.sizes
        )

    def model(self, attention: Attention) -> nn.Module:
        """Build the encoder and a head with one hidden layer as wide as the feed-forward ones."""
        kind = PaddingPoolingClassifier if self.as_released else Classifier
        return kind(self.encoder(attention), classes=self.classes, hidden=self.sizes["mlp"], pooling=self.pooling)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Let the model read a batch."""
        return model(batch.x, batch.x_mask, batch.inputs)  # type: ignore[no-any-return]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        assert batch.target is not None
        return F.cross_entropy(self.logits(model, batch).float(), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """1 where the likeliest class is right."""
        assert batch.target is not None
        return {"accuracy": self.logits(model, batch).argmax(-1).eq(batch.target).float()}


def targets(examples: Sequence[tuple[Any, int]]) -> Tensor:
    """Return the examples' labels."""
    return torch.tensor([label for _, label in examples])
