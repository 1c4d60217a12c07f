"""Classification of sequences with an encoder: what the tasks of Long Range Arena share beside their data.

`protocol=lra` has the quirk `padding-is-pooled` of the released code where pooling is mean or max, and the quirks that
a task's own file names. Everything else of the release is in `scale=paper`.
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
from cab.contracts.task import Batch, LayerFactory
from cab.errors import unknown
from cab.suites.real_data import RealDataTask

LENGTH_MULTIPLE = 64  # the length of a trimmed batch is a multiple of it, so that few shapes occur
Array = np.ndarray[Any, np.dtype[Any]]


class Classification(RealDataTask):
    """Examples are (content, label). A task sets `splits` in `source`, and gives the ids of a content in `ids`."""

    slots = ("NS",)
    metrics = {"accuracy": ("fraction", True)}
    paper = "arXiv 2011.04006"
    vocabulary: ClassVar[int]
    classes: ClassVar[int] = 2
    tokens: ClassVar[int] = 0  # of each example, if all have the same number; else 0

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
        self.max_tokens = seq_len - self.cls  # of an example, beside the class token
        if self.max_tokens < 1:
            raise ValueError(f"seq_len={seq_len}: with a class token at least 2 are needed")
        if self.tokens not in (0, self.max_tokens):
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

    def ids(self, content: Any) -> Array:
        """Return the token ids of a content; where examples are padded, with 0, they are 1 or more."""
        return content  # type: ignore[no-any-return]

    def pad(self, contents: Sequence[Any], trim: bool) -> Tensor:
        """Return ids (batch, n) of contents, padded with 0; with `trim`, n is as small as `LENGTH_MULTIPLE` allows."""
        rows = [self.ids(content) for content in contents]
        length = self.max_tokens
        if trim and (self.cls or not self.as_released):  # where padding is pooled, all of it is needed
            longest = max(len(row) for row in rows) + self.cls
            length = min(length, -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE - self.cls)
        x = np.zeros((len(rows), length), dtype=np.int64)
        for padded, row in zip(x, rows, strict=True):
            padded[: len(row)] = row
        return torch.from_numpy(x)

    def collate(self, examples: Sequence[Any], trim: bool = False) -> Batch:
        """Pad the examples with 0, and mask the padding."""
        x = self.pad([content for content, _ in examples], trim)
        return Batch(x, x > 0, target=targets(examples))

    def encoder(self, attention: LayerFactory) -> Encoder:
        """Build the encoder of the task's sizes."""
        return Encoder(
            attention, Pattern.NS, vocabulary=self.vocabulary, max_len=self.seq_len, cls=self.cls, **self.sizes
        )

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build the encoder and a head, whose hidden layer has the size of the feed-forward networks'."""
        classifier = PaddingPoolingClassifier if self.as_released else Classifier
        return classifier(self.encoder(attention), classes=self.classes, hidden=self.sizes["mlp"], pooling=self.pooling)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the model's logits (batch, classes)."""
        return model(batch.x, batch.x_mask, batch.inputs)  # type: ignore[no-any-return]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy."""
        assert batch.target is not None
        return F.cross_entropy(self.logits(model, batch).float(), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return accuracy: 1 for each example whose likeliest class is right, else 0."""
        assert batch.target is not None
        return {"accuracy": self.logits(model, batch).argmax(-1).eq(batch.target).float()}


def targets(examples: Sequence[tuple[Any, int]]) -> Tensor:
    """Return the labels (batch,) of examples (content, label)."""
    return torch.tensor([label for _, label in examples])
