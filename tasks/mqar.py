"""Multi-query associative recall in causal self attention (Zoology, Arora et al., arXiv 2312.04927, section 4).

    ids      a 7 c 9  .  .  c  .  a  .        the pairs, then a query for each key among blanks
    labels                  9     7           the value of the key

The vocabulary is large, and a sequence has few values. A model that pools all tokens (`mean`) guesses one of the
sequence's values, and one without attention (`none`) guesses any value.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from cab import Batch
from cab.backbones.decoder import Decoder
from cab.backbones.labels import count_correct, label_loss
from cab.contracts.task import LayerFactory
from cab.data.mqar import generate
from cab.data.recall import lengthened
from cab.errors import Unsupported
from cab.suites.generated import GeneratedTask


class MQAR(GeneratedTask):
    """`pairs` of keys and values, then a query for each, in `seq_len` tokens.

    Training also has more pairs, doubled up to `doublings` times, so that a sequence has more labels to learn from.
    """

    slots = ("CS",)
    evaluated = 0
    paper = "arXiv 2312.04927"

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        pairs: int = 4,
        doublings: int = 0,
        vocabulary: int = 8192,
        power: float = 0.01,
        noise: bool = False,
        examples: int = 100_000,
        layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "rotary",
        embedding_std: float = 1.0,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if pairs < 1 or seq_len % 2 or 4 * pairs > seq_len:
            raise ValueError(f"pairs={pairs}, seq_len={seq_len}: seq_len must be even and at least 4 tokens a pair")
        if doublings < 0 or 4 * (pairs << doublings) > seq_len:
            raise ValueError(f"doublings={doublings}: {pairs} pairs so often doubled need 4 of seq_len={seq_len} each")
        self.pairs, self.difficulties = pairs, [pairs << i for i in range(doublings + 1)]
        least = 2 * self.difficulties[-1] + 2
        if vocabulary % 2 or vocabulary < least:
            raise ValueError(f"vocabulary={vocabulary}: even, and at least {least} for these pairs")
        self.generator_settings: dict[str, Any] = {"vocabulary": vocabulary, "power": power, "noise": noise}
        self.counts = {"train": examples, "validation": 500, "test": 3000}
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "layers": layers,
            "mlp": mlp,
            "dropout": dropout,
            "norm": norm,
            "positions": positions,
            "embedding_std": embedding_std,
        }

    def collate(self, examples: Sequence[tuple[int, int]], trim: bool = False) -> Batch:
        """Generate the examples; none is padded."""
        ids, queries = generate(examples, self.seq_len, **self.generator_settings)
        return Batch(torch.from_numpy(ids), target=torch.from_numpy(queries))

    def at_length(self, factor: float) -> Self:
        """Return the task with test examples of `factor` times as many tokens and pairs, for the same parameters.

        `Unsupported` where that gives no whole numbers, or more pairs than the vocabulary has keys.
        """
        task = copy(self)
        task.seq_len = task.source_len = lengthened(self.seq_len, factor, "tokens")
        task.difficulties = [lengthened(self.pairs, factor, "pairs")]
        vocabulary = self.generator_settings["vocabulary"]
        if task.seq_len % 2 or vocabulary < 2 * task.difficulties[0] + 2:
            raise Unsupported(f"{task.seq_len} tokens with {task.difficulties[0]} pairs, from {vocabulary} ids")
        return task

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build a decoder whose classes are the values, with the values' embeddings as the weights of its head."""
        vocabulary = self.generator_settings["vocabulary"]
        return Decoder(attention, vocabulary // 2, True, vocabulary=vocabulary, max_len=self.seq_len, **self.sizes)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the queries."""
        return label_loss(*self._logits_and_labels(model, batch))

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return accuracy, as the correct and all queries."""
        return {"accuracy": count_correct(*self._logits_and_labels(model, batch))}

    def _logits_and_labels(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits (batch, queries, classes) and labels (batch, queries)."""
        assert batch.target is not None
        indices, values = batch.target.unbind(1)
        labels = torch.where(values < 0, values, values - self.generator_settings["vocabulary"] // 2)
        return model(batch.x, batch.x_mask, batch.inputs, indices), labels

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the accuracies of guessing any value of the vocabulary, and any value of the sequence."""
        values = self.generator_settings["vocabulary"] // 2
        return {"chance": {"accuracy": 1 / values}, "a value of the sequence": {"accuracy": 1 / self.pairs}}
