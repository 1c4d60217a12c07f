"""CAB's language modelling (Zhang et al., arXiv 2210.07661, table 1): the next byte of long text, by GPT-2's decoder.

    bytes    T   h   e       c   a   t
    x        0   T   h   e       c   a        token 0, then each byte + 1, without the last
    target   T   h   e       c   a   t        the bytes

The model is built for twice the `seq_len` bytes that it is trained on, and scored on windows of a quarter of them, a
half, all and twice as many: CAB's interpolation and extrapolation. All four read the same bytes of the test split, cut
into windows of their length, so their differences are paired.

Departures: bytes in place of BPE tokens, and nats a byte in place of perplexity, at every scale. At quick and small
scale positions are rotary; at quick scale the text is film reviews.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cab import Batch
from cab.backbones.decoder import Decoder
from cab.backbones.labels import label_loss, sum_nll
from cab.contracts.task import LayerFactory, Stream
from cab.data.byte_windows import Bytes
from cab.suites.byte_text import VALUES, VOCABULARY, ByteText, bytes_of, log_frequencies


class CabLM(ByteText):
    """A causal decoder over bytes; examples have 2 * `seq_len` bytes, of which training reads the first half."""

    slots = ("CS",)
    metrics = {
        "nll": ("nats", False),
        "nll_quarter": ("nats", False),
        "nll_half": ("nats", False),
        "nll_double": ("nats", False),
    }
    windows = 2
    departures = ("bytes", ("rotary positions", {"positions": "rotary"}))

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 4,
        dim: int = 16,
        corpus: str = "reviews",
        layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "rotary",
        tied: bool = False,
        embedding_std: float = 1.0,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len, corpus=corpus)
        if seq_len % 4:
            raise ValueError(f"seq_len={seq_len}: it must be a multiple of 4, because a quarter of it is scored too")
        self.tied = tied
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
        """Return x (batch, n), the tokens that training reads, and target (batch, 2n), all bytes; none is padded."""
        target = bytes_of(examples)
        return Batch(shifted(target[:, : self.seq_len]), target=target)

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build a decoder for 2n bytes, with logits of the 256 bytes."""
        return Decoder(attention, VALUES, self.tied, vocabulary=VOCABULARY, max_len=2 * self.seq_len, **self.sizes)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the first n bytes."""
        assert batch.target is not None
        return label_loss(model(batch.x, None, batch.inputs), batch.target[:, : self.seq_len])

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sum the nats of each example's 2n bytes, and count them, in windows of n, n / 4, n / 2 and 2n: (batch, 2)."""
        assert batch.target is not None
        n = self.seq_len
        lengths = {"nll": n, "nll_quarter": n // 4, "nll_half": n // 2, "nll_double": 2 * n}
        return {name: _windowed_nll(model, batch.target, length) for name, length in lengths.items()}

    def stream(self, model: nn.Module, batch: Batch) -> Stream:
        """Begin windows of bytes, as many as the batch has."""
        assert isinstance(model, Decoder)
        return model.stream(torch.zeros_like(batch.x[:, :1]))

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the nats of predicting each byte by its frequency in training, and by its frequency after the last."""
        train, test = (before_and_after(windows) for windows in (self.counted(), self.tested()))
        counts = np.bincount(train[0] * VALUES + train[1], minlength=VOCABULARY * VALUES).reshape(VOCABULARY, VALUES)
        alone, after = log_frequencies(counts.sum(0)), log_frequencies(counts)
        return {
            "byte frequencies": {"nll": float(-alone[test[1]].mean())},
            "after the previous byte": {"nll": float(-after[test].mean())},
        }


def shifted(target: Tensor) -> Tensor:
    """Return the tokens that predict bytes (batch, length): 0, then each byte but the last, plus 1."""
    return torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1] + 1], 1)


def before_and_after(windows: Any) -> tuple[Any, Any]:
    """Return each byte's previous token, 0 at a window's start, and the byte: two (windows * length,)."""
    tokens = np.concatenate([np.zeros((len(windows), 1), np.int64), windows[:, :-1].astype(np.int64) + 1], 1)
    return tokens.ravel(), windows.astype(np.int64).ravel()


def _windowed_nll(model: nn.Module, target: Tensor, length: int) -> Tensor:
    """Sum the nats of bytes (batch, 2n) read in windows of `length`, a few examples at a time, and count them."""
    cut = target.view(-1, length)
    rows = max(1, len(target) * target.shape[1] // 2 // length)  # as many tokens at once as training has
    parts = [sum_nll(model(shifted(part)), part) for part in (cut[i : i + rows] for i in range(0, len(cut), rows))]
    return torch.cat(parts).view(len(target), -1, 2).sum(1)
