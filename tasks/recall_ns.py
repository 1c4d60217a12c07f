"""Recall in noncausal self attention: asks first, then the pairs that answer them, in one sequence.

    tokens   b?  d?  a?  b?  (a 3) (c 1) (d 2) (b 0)        a pair is one token, in random order
    labels   0   2   3   0                                  scored where something is asked

An ask has an id of its own, so that it can be matched with its pair only by learning which belong together; and since
all pairs come later, a causal mechanism stays at chance.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cab import Batch, Pattern
from cab.backbones.decoder import TokenClassifier
from cab.backbones.encoder import Encoder
from cab.backbones.labels import count_correct, label_loss
from cab.backbones.multi_field_embedding import MultiFieldEmbedding
from cab.contracts.task import Attention
from cab.data.recall import Example, Pairs, asks_first, ladder
from cab.suites.recall import Recall


class RecallNS(Recall):
    """`pairs` of the `seq_len` tokens answer the others; training also has fewer, halved `halvings` times."""

    slots = ("NS",)

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        pairs: int = 64,
        examples: int = 1_000_000,
        halvings: int = 3,
        layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "none",
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if not 1 <= pairs < seq_len:
            raise ValueError(f"pairs={pairs}: from 1, and fewer than seq_len={seq_len}, whose other tokens ask")
        self.pairs, self.asks = pairs, seq_len - pairs
        self.levels = ladder(pairs, halvings)
        self.counts = {"train": examples, "validation": 512, "test": 2000}
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "layers": layers,
            "mlp": mlp,
            "dropout": dropout,
            "norm": norm,
            "positions": positions,
        }

    def collate(self, examples: Sequence[Example], trim: bool = False) -> Batch:
        """Draw the examples, all at once; padding follows the pairs."""
        pairs = Pairs(examples, self.pairs)
        x, labels = asks_first(pairs, self.asks)
        n = self.asks + (int(pairs.counts.max()) if trim else self.pairs)
        real = torch.from_numpy(x[:, :n, 0] > 0)
        mask = None if real.all() else real
        return Batch(torch.from_numpy(x[:, :n]), mask, target=torch.from_numpy(labels[:, :n]))

    def model(self, attention: Attention) -> nn.Module:
        """Build an encoder that answers at every token."""
        vocabulary = 1 + 3 * self.pairs
        encoder = Encoder(attention, Pattern.NS, vocabulary=vocabulary, max_len=self.seq_len, **self.sizes)
        encoder.tokens = MultiFieldEmbedding(encoder.tokens)
        return TokenClassifier(encoder, classes=self.pairs)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the asks."""
        return label_loss(model(batch.x, batch.x_mask, batch.inputs), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """How many of the asks are answered right."""
        return {"accuracy": count_correct(model(batch.x, batch.x_mask, batch.inputs), batch.target)}

    def floors(self) -> dict[str, dict[str, float]]:
        """Any of the values, all of which occur once."""
        return {"chance": {"accuracy": 1 / self.pairs}}
