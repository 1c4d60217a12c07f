"""Recall in noncausal cross attention: the target asks for the values of its own keys, and of its next ones.

    source   (a 3) (c 1) (d 2) (b 0)        pairs, one token each, in random order
    target   (b own) (a next) (c own) (d own)
    labels    0       1        1       2          scored where the next key is asked about

A next key is known through the target's noncausal self attention, its value through cross attention: with either slot
removed the accuracy is chance. Asking for a token's own key is the ladder that makes it learnable.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cab import Batch, Pattern, Source, Task
from cab.backbones.encoder import Encoder
from cab.backbones.encoder_decoder import EncoderDecoder
from cab.backbones.fields import Fields
from cab.backbones.labels import label_loss, right_and_asked
from cab.contracts.task import Attention
from cab.data.draws import Examples
from cab.data.recall import Example, Pairs, ladder, with_modes
from cab.errors import unknown

EXAMPLES = {"validation": 512, "test": 2000}


class RecallNC(Task):
    """`source_len` pairs and `seq_len` tokens that ask; training also has fewer pairs, halved `halvings` times."""

    slots = ("NC", "NS")  # the target's self attention too, to show that it is needed
    metrics = {"accuracy": ("fraction", True)}

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
        self.counts = {"train": examples, **EXAMPLES}
        self.layers, self.encoder_layers = layers, encoder_layers
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "mlp": mlp,
            "dropout": dropout,
            "norm": norm,
            "positions": positions,
        }

    def source(self, folder: Path) -> Source:
        """Nothing is read: every example is drawn when it is asked for."""
        return Source("generated", comparable=False, counts=self.counts)

    def split(self, name: str, seed: int) -> Examples:
        """Return numbered examples: of every rung in training, of all pairs in the other splits."""
        if name not in self.counts:
            raise unknown("split", name, self.counts)
        return Examples(seed, name, self.counts[name], self.levels if name == "train" else self.levels[-1:])

    def collate(self, examples: Sequence[Example], trim: bool = False) -> Batch:
        """Draw the examples, all at once; the source is padded to `source_len`, or to the most pairs."""
        pairs = Pairs(examples, self.source_len)
        x, labels = with_modes(pairs, self.seq_len, neighbour=1)
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
            Pattern.NC,
            encoder,
            classes=pairs,
            vocabulary=3 + pairs,
            max_len=self.seq_len,
            source_len=pairs,
            layers=self.layers,
            **self.sizes,
        )
        encoder.tokens, model.tokens = Fields(encoder.tokens), Fields(model.tokens)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over both modes."""
        return label_loss(model(batch.x, batch.x_mask, batch.y, batch.y_mask), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """How many of mode 1 are right."""
        logits = model(batch.x, batch.x_mask, batch.y, batch.y_mask)
        return {"accuracy": right_and_asked(logits, batch.target, batch.x[:, :, 1] == self.source_len + 2)}

    def floors(self) -> dict[str, dict[str, float]]:
        """Any of the values, all of which occur once."""
        return {"chance": {"accuracy": 1 / self.source_len}}
