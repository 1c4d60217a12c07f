"""Diagnostic tasks: generated sequences with labels at some of their tokens, each for one ability."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cab.backbones.decoder import TokenClassifier
from cab.backbones.encoder import Encoder
from cab.backbones.labels import count_correct, label_loss
from cab.contracts.pattern import Pattern
from cab.contracts.task import Batch, LayerFactory
from cab.data.counter_rng import CounterRNG, Integers
from cab.suites.generated import GeneratedTask


class TokenLabelling(GeneratedTask):
    """A task sets `vocabulary` and `classes`, and generates ids and labels. All classes are equally common."""

    slots = ("CS",)
    pattern: str = "CS"  # of the model
    shape: tuple[int, ...] | None = None  # of the raster that its slots know
    difficulties = (0,)  # all examples are equally difficult
    vocabulary: int
    classes: int

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        examples: int = 100_000,
        layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "rotary",
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
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

    def generate(self, rng: CounterRNG) -> tuple[Integers, Integers]:
        """Return ids (examples, n), below `vocabulary`, and labels (examples, n), `IGNORED` at tokens without one."""
        raise NotImplementedError

    def collate(self, examples: Sequence[tuple[int, int]], trim: bool = False) -> Batch:
        """Generate the examples; none is padded."""
        ids, labels = self.generate(CounterRNG([number for number, _ in examples]))
        return Batch(torch.from_numpy(ids), target=torch.from_numpy(labels))

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build an encoder with logits at every token; with causal slots it is a decoder."""
        pattern = Pattern.of(self.pattern)
        encoder = Encoder(
            attention,
            pattern,
            vocabulary=self.vocabulary,
            max_len=self.seq_len,
            raster=self.shape,
            **self.sizes,
        )
        return TokenClassifier(encoder, self.classes)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the labelled tokens."""
        assert batch.target is not None
        return label_loss(model(batch.x, batch.x_mask, batch.inputs), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return accuracy, as the correct and all labelled tokens."""
        assert batch.target is not None
        return {"accuracy": count_correct(model(batch.x, batch.x_mask, batch.inputs), batch.target)}

    def floors(self) -> dict[str, dict[str, float]]:
        """Return chance: the classes are equally common."""
        return {"chance": {"accuracy": 1 / self.classes}}
