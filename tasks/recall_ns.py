"""Recall in noncausal self attention: queries first, then the pairs that answer them, in one sequence.

    tokens   b?  d?  a?  b?  (a 3) (c 1) (d 2) (b 0)        a pair is one token; their order is random
    labels   0   2   3   0

The id of a query is not that of its key in a pair, so a model must learn which ids belong together. All pairs come
after the queries, so a causal mechanism stays at chance.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from cab import Batch, Pattern
from cab.backbones.decoder import TokenClassifier
from cab.backbones.encoder import Encoder
from cab.backbones.labels import count_correct, label_loss
from cab.backbones.multi_field_embedding import MultiFieldEmbedding
from cab.contracts.task import LayerFactory
from cab.data.recall import Example, KeyValuePairs, halved_counts, lengthened, queries_then_pairs
from cab.suites.generated import GeneratedTask


class RecallNS(GeneratedTask):
    """`pairs` of the `seq_len` tokens are pairs, the others queries.

    Training also has fewer pairs, halved up to `halvings` times, and as many queries.
    """

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
            raise ValueError(f"pairs={pairs}: from 1, and fewer than seq_len={seq_len}, whose other tokens are queries")
        self.pairs, self.queries, self.repeats = pairs, seq_len - pairs, 1
        self.difficulties = halved_counts(pairs, halvings)
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
        """Generate the examples; padding is after the pairs."""
        pairs = KeyValuePairs(examples, self.pairs, self.repeats)
        x, labels = queries_then_pairs(pairs, self.queries)
        n = self.queries + self.repeats * (int(pairs.counts.max()) if trim else self.pairs)
        real = torch.from_numpy(x[:, :n, 0] > 0)
        mask = None if real.all() else real
        return Batch(torch.from_numpy(x[:, :n]), mask, target=torch.from_numpy(labels[:, :n]))

    def at_length(self, factor: float) -> Self:
        """Return the task with test examples of `factor` times as many queries and pairs, for the same parameters.

        Ids are those of the task itself, so beyond its length each pair occurs several times. `Unsupported` where that
        gives no whole numbers.
        """
        task = copy(self)
        task.queries, task.repeats = lengthened(self.queries, factor, "queries"), max(1, int(factor))
        task.difficulties = [lengthened(self.pairs, factor / task.repeats, "pairs")]
        task.seq_len = task.source_len = task.queries + task.repeats * task.difficulties[0]
        return task

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build an encoder with logits at every token."""
        vocabulary = 1 + 3 * self.pairs
        encoder = Encoder(attention, Pattern.NS, vocabulary=vocabulary, max_len=self.seq_len, **self.sizes)
        encoder.tokens = MultiFieldEmbedding(encoder.tokens)
        return TokenClassifier(encoder, classes=self.pairs)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the queries."""
        return label_loss(model(batch.x, batch.x_mask, batch.inputs), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return accuracy, as the correct and all queries."""
        return {"accuracy": count_correct(model(batch.x, batch.x_mask, batch.inputs), batch.target)}

    def floors(self) -> dict[str, dict[str, float]]:
        """Return chance: each of the values occurs once."""
        return {"chance": {"accuracy": 1 / self.pairs}}
