"""Recall: numbered examples, drawn when they are asked for, and recall across from a target to a source.

Training has fewer pairs too, a ladder; validation and test have the most. `neighbour` is which other target key a token
may ask about: -1 the previous one (causal), 1 the next one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cab.backbones.encoder import Encoder
from cab.backbones.encoder_decoder import EncoderDecoder
from cab.backbones.labels import count_correct, label_loss
from cab.backbones.multi_field_embedding import MultiFieldEmbedding
from cab.contracts.pattern import Pattern
from cab.contracts.task import Attention, Batch, Source, Task
from cab.data.draws import Examples
from cab.data.recall import Example, Pairs, ladder, with_modes
from cab.errors import unknown


class Recall(Task):
    """A task sets `counts`, the examples of each split, and `levels`, the pairs that they have."""

    metrics = {"accuracy": ("fraction", True)}
    tested: ClassVar[int] = -1  # which of the levels
    levels: Sequence[int]
    counts: dict[str, int]

    def source(self, folder: Path) -> Source:
        """Nothing is read: every example is drawn when it is asked for."""
        return Source("generated", comparable=False, counts=self.counts)

    def split(self, name: str, seed: int) -> Examples:
        """Return numbered examples: of every level in training, of the tested one in the other splits."""
        if name not in self.counts:
            raise unknown("split", name, self.counts)
        return Examples(seed, name, self.counts[name], self.levels if name == "train" else [self.levels[self.tested]])


class CrossRecall(Recall):
    """`source_len` pairs and `seq_len` tokens that ask; training also has fewer pairs, halved `halvings` times."""

    pattern: ClassVar[str]  # of the cross attention
    neighbour: ClassVar[int]

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
            raise ValueError(f"seq_len={seq_len}: at least 2 are needed, since one asks about the other")
        self.levels = ladder(self.source_len, halvings)
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
        """Draw the examples, all at once; the source is padded to `source_len`, or to the most pairs."""
        pairs = Pairs(examples, self.source_len)
        x, labels = with_modes(pairs, self.seq_len, self.neighbour)
        m = int(pairs.counts.max()) if trim else self.source_len
        mask = None if (pairs.counts == m).all() else torch.from_numpy(pairs.real[:, :m])
        y = torch.from_numpy(pairs.tokens()[:, :m])
        return Batch(torch.from_numpy(x), None, y, mask, torch.from_numpy(labels))

    def model(self, attention: Attention) -> nn.Module:
        """Build an encoder, of no layers unless asked for, and the decoder under test."""
        pairs = self.source_len
        encoder = Encoder(
            attention,
            Pattern.NS,
            vocabulary=1 + 2 * pairs,
            max_len=pairs,
            layers=self.encoder_layers,
            **self.sizes,
        )
        model = EncoderDecoder(
            attention,
            Pattern.of(self.pattern),
            encoder,
            classes=pairs,
            vocabulary=3 + pairs,
            max_len=self.seq_len,
            source_len=pairs,
            layers=self.layers,
            **self.sizes,
        )
        encoder.tokens, model.tokens = MultiFieldEmbedding(encoder.tokens), MultiFieldEmbedding(model.tokens)  # type: ignore[assignment]
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over both modes."""
        assert batch.target is not None
        return label_loss(model(batch.x, batch.x_mask, batch.y, batch.y_mask), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """How many of mode 1 are right."""
        assert batch.target is not None
        logits = model(batch.x, batch.x_mask, batch.y, batch.y_mask)
        return {"accuracy": count_correct(logits, batch.target, batch.x[:, :, 1] == self.source_len + 2)}

    def floors(self) -> dict[str, dict[str, float]]:
        """Any of the values, all of which occur once."""
        return {"chance": {"accuracy": 1 / self.source_len}}
