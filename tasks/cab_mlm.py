"""CAB's masked language modelling (Zhang et al., arXiv 2210.07661, table 1): covered bytes of long text, by RoBERTa.

    bytes    T   h   e       c   a   t
    x        T   0   e       c   0   t        each byte + 1, and 0 where it is covered
    target   .   h   .   .   .   a   .        the bytes that are covered

A share `covered` of the bytes is covered (Devlin et al., arXiv 1810.04805, section 3.1). A share `hidden` of these are
0; the others are random bytes and stay, half each. Which ones is a function of the window's bytes alone: they are the
same in each epoch, and for each seed and mechanism.

Departures: bytes in place of BPE tokens, and nats a covered byte in place of perplexity, at every scale; RoBERTa draws
other places in each epoch, and has a hidden layer before its logits. At quick and small scale the encoder is pre-norm
with rotary positions, all covered bytes are hidden, because a model without attention reads those that stay. At quick
scale the text is film reviews.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cab import Batch, Pattern
from cab.backbones.decoder import TokenClassifier
from cab.backbones.encoder import Encoder
from cab.backbones.labels import IGNORED, count_correct, label_loss, sum_nll
from cab.contracts.task import LayerFactory
from cab.data.byte_windows import Bytes
from cab.data.counter_rng import CounterRNG
from cab.suites.byte_text import VALUES, VOCABULARY, ByteText, bytes_of, log_frequencies

MASK = 0  # the token of a covered byte
RESOLUTION = 2**16  # `covered` and `hidden` are rounded to multiples of 1 / RESOLUTION


class CabMLM(ByteText):
    """A noncausal encoder over bytes, which predicts those that are covered."""

    slots = ("NS",)
    metrics = {"nll": ("nats", False), "accuracy": ("fraction", True)}
    departures = (
        "bytes",
        ("rotary positions", {"positions": "rotary"}),
        ("pre-norm", {"norm": "pre"}),
        ("all covered bytes are hidden", {"hidden": 1.0}),
    )

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 4,
        dim: int = 16,
        corpus: str = "reviews",
        covered: float = 0.15,
        hidden: float = 1.0,
        layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "rotary",
        tied: bool = False,
        embedding_std: float = 1.0,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len, corpus=corpus)
        if not 0 < covered < 1:
            raise ValueError(f"covered={covered}: a share of the bytes, above 0 and below 1")
        if not 0 <= hidden <= 1:
            raise ValueError(f"hidden={hidden}: a share of the covered bytes, from 0 to 1")
        self.covered, self.hidden, self.tied = covered, hidden, tied
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

    def collate(self, examples: Sequence[Bytes], trim: bool = False) -> Batch:
        """Return x (batch, n) and target (batch, n), which is `IGNORED` at bytes that are not covered."""
        target = bytes_of(examples)
        covered, hidden, random, other = (torch.from_numpy(each) for each in self._draw(examples))
        x = torch.where(covered & hidden, MASK, target + 1)
        x = torch.where(covered & ~hidden & random, other + 1, x)
        return Batch(x, target=target.masked_fill(~covered, IGNORED))

    def _draw(self, examples: Sequence[Bytes]) -> tuple[Any, Any, Any, Any]:
        """Draw whether each byte is covered, whether it is then hidden, else random, and a random byte: (batch, n)."""
        digests = [hashlib.sha256(example.tobytes()).digest() for example in examples]
        rng = CounterRNG([int.from_bytes(digest[:8], "big") for digest in digests])
        n = self.seq_len
        covered = rng.integers(RESOLUTION, n) < round(self.covered * RESOLUTION)
        np.put_along_axis(covered, rng.integers(n, 1), True, 1)  # one at least
        hidden = rng.integers(RESOLUTION, n) < round(self.hidden * RESOLUTION)
        return covered, hidden, rng.integers(2, n) == 0, rng.integers(VALUES, n)

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build an encoder with logits of the 256 bytes at every token."""
        encoder = Encoder(attention, Pattern.NS, vocabulary=VOCABULARY, max_len=self.seq_len, **self.sizes)
        return TokenClassifier(encoder, VALUES, self.tied)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the covered bytes."""
        assert batch.target is not None
        return label_loss(model(batch.x, None, batch.inputs), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return for each example the nats of its covered bytes, and how many are predicted, each with their number."""
        assert batch.target is not None
        logits = model(batch.x, None, batch.inputs)
        return {"nll": sum_nll(logits, batch.target), "accuracy": count_correct(logits, batch.target)}

    def floors(self) -> dict[str, dict[str, float]]:
        """Return what predicting each byte by its frequency in training gives: no context."""
        counts = np.bincount(self.counted().ravel(), minlength=VALUES)
        test = self.tested().ravel()
        nll, accuracy = -log_frequencies(counts)[test].mean(), (test == counts.argmax()).mean()
        return {"byte frequencies": {"nll": float(nll), "accuracy": float(accuracy)}}
