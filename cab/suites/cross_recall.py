"""Recall across attention: the target's tokens are queries for the pairs of the source.

A query asks for the value of its own key (mode 0), or of the key of its neighbour in the target (mode 1). Mode 1 is
scored. Training has both, because mode 1 alone is not learnt.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from cab.backbones.encoder import Encoder
from cab.backbones.encoder_decoder import EncoderDecoder
from cab.backbones.labels import count_correct, label_loss
from cab.backbones.multi_field_embedding import MultiFieldEmbedding
from cab.contracts.pattern import Pattern
from cab.contracts.task import Batch, LayerFactory
from cab.data.recall import Example, KeyValuePairs, halved_counts, lengthened, queries_with_modes
from cab.errors import Unsupported
from cab.suites.generated import GeneratedTask


class CrossRecall(GeneratedTask):
    """`source_len` pairs and `seq_len` queries. Training also has fewer pairs, halved up to `halvings` times."""

    pattern: ClassVar[str]  # of the cross attention
    neighbour: ClassVar[int]  # of a query, in positions: -1 is the previous one (causal), 1 the next one

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        examples: int = 1_000_000,
        halvings: int = 3,
        layers: int = 2,
        encoder_layers: int = 0,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "rotary",
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if seq_len < 2:
            raise ValueError(f"seq_len={seq_len}: at least 2 queries are needed, since one asks for the key of another")
        self.pairs, self.repeats = self.source_len, 1  # different pairs, and how often each is in the source
        self.difficulties = halved_counts(self.pairs, halvings)
        self.counts = {"train": examples, "validation": 512, "test": 2000}
        self.layers, self.encoder_layers = layers, encoder_layers
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "mlp": mlp,
            "dropout": dropout,
            "norm": norm,
            "positions": positions,
        }

    def collate(self, examples: Sequence[Example], trim: bool = False) -> Batch:
        """Generate the examples; the source is padded to `source_len`, or with `trim` to the most pairs."""
        pairs = KeyValuePairs(examples, self.pairs, self.repeats)
        x, labels = queries_with_modes(pairs, self.seq_len, self.neighbour)
        m = self.repeats * (int(pairs.counts.max()) if trim else self.pairs)
        mask = None if (self.repeats * pairs.counts == m).all() else torch.from_numpy(pairs.mask[:, :m])
        y = torch.from_numpy(pairs.tokens()[:, :m])
        return Batch(torch.from_numpy(x), None, y, mask, torch.from_numpy(labels))

    def at_length(self, factor: float) -> Self:
        """Return the task with test examples of `factor` times as many queries and pairs, for the same parameters.

        Ids are those of the task itself, so beyond its length each pair occurs several times. `Unsupported` where that
        gives no whole numbers, or fewer than 2 queries.
        """
        task = copy(self)
        task.seq_len, task.repeats = lengthened(self.seq_len, factor, "queries"), max(1, int(factor))
        if task.seq_len < 2:
            raise Unsupported("one query has no neighbour to ask for")
        task.difficulties = [lengthened(self.pairs, factor / task.repeats, "pairs")]
        task.source_len = task.repeats * task.difficulties[0]
        return task

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build an encoder, by default without layers, and a decoder."""
        encoder = Encoder(
            attention,
            Pattern.NS,
            vocabulary=1 + 2 * self.pairs,
            max_len=self.source_len,
            layers=self.encoder_layers,
            **self.sizes,
        )
        model = EncoderDecoder(
            attention,
            Pattern.of(self.pattern),
            encoder,
            classes=self.pairs,
            vocabulary=3 + self.pairs,
            max_len=self.seq_len,
            source_len=self.source_len,
            layers=self.layers,
            **self.sizes,
        )
        encoder.tokens, model.tokens = MultiFieldEmbedding(encoder.tokens), MultiFieldEmbedding(model.tokens)  # type: ignore[assignment]
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of both modes."""
        assert batch.target is not None
        return label_loss(model(batch.x, batch.x_mask, batch.y, batch.y_mask), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return accuracy, as the correct and all queries of mode 1."""
        assert batch.target is not None
        logits = model(batch.x, batch.x_mask, batch.y, batch.y_mask)
        return {"accuracy": count_correct(logits, batch.target, batch.x[:, :, 1] == self.pairs + 2)}

    def floors(self) -> dict[str, dict[str, float]]:
        """Return chance: each of the values occurs once."""
        return {"chance": {"accuracy": 1 / self.pairs}}
