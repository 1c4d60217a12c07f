"""FastSpeech 2 (Ren et al., arXiv 2006.04558): phonemes, how long each lasts, and all frames of a spectrogram at once.

An encoder over phonemes, predictors of durations, and with `variances` of pitch and energy, and a decoder over frames.
Every self attention layer is a slot NS. A feed-forward network and a predictor are convolutions of a kernel of their
own: with kernel 1 nothing but attention moves information between tokens.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cab.backbones.dropout import Dropout
from cab.backbones.encoder import NORMS
from cab.backbones.positions import ROTARY_BASE, SinusoidalPositions
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.contracts.task import LayerFactory
from cab.errors import unknown

BINS = 256  # of pitch and of energy (section 2.3)
DEVIATIONS = 4.0  # the bins cover as many standard deviations on both sides of the mean


class Convolution(nn.Module):
    """A convolution along tokens (batch, n, width), of which a masked one counts as zeros."""

    def __init__(self, width: int, out: int, kernel: int) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: an odd number of tokens")
        self.convolution = nn.Conv1d(width, out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, n, out)."""
        x = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)
        return self.convolution(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


class FeedForwardTransformer(nn.Module):
    """Self attention and two convolutions, each with a residual connection, dropout and layer norm."""

    def __init__(self, attention: nn.Module, width: int, mlp: int, *, kernel: int, dropout: float, norm: str) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(str(unknown("norm", norm, NORMS)))
        self.norm_first = norm == "pre"
        self.attention = attention
        self.first, self.second = Convolution(width, mlp, kernel), Convolution(mlp, width, kernel)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the block's output (batch, n, width) for x (batch, n, width)."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), mask))
            return x + self._feed_forward(self.mlp_norm(x), mask)
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        return self.mlp_norm(x + self._feed_forward(x, mask))  # type: ignore[no-any-return]

    def _feed_forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        hidden = self.dropout(self.first(x, mask).relu())
        return self.dropout(self.second(hidden, mask))  # type: ignore[no-any-return]


class Predictor(nn.Module):
    """Two convolutions with ReLU, layer norm and dropout, and a linear map to one value a phoneme (figure 1c)."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(Convolution(width, width, kernel) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout, self.head = Dropout(dropout), nn.Linear(width, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return values (batch, m) of x (batch, m, width)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.dropout(norm(convolution(x, mask).relu()))
        return self.head(x).squeeze(-1)  # type: ignore[no-any-return]


class FastSpeech2(nn.Module):
    """Turns phonemes (batch, m) into the log-mel spectrogram of at most `max_len` frames.

    `predictor_kernel` and `predictor_dropout` are the predictors', `kernel` and `dropout` the feed-forward networks'.
    With `rotary` self attention has rotary positions too.
    """

    def __init__(
        self,
        attention: LayerFactory,
        *,
        vocabulary: int,
        bands: int,
        max_len: int,
        source_len: int,
        heads: int,
        dim: int,
        layers: int,
        encoder_layers: int,
        mlp: int,
        kernel: int = 9,
        dropout: float = 0.0,
        norm: str = "post",
        rotary: bool = False,
        variances: bool = True,
        predictor_kernel: int = 3,
        predictor_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        width = heads * dim
        self.max_len = max_len
        self.phonemes = nn.Embedding(vocabulary, width)

        def blocks(length: int, depth: int) -> nn.ModuleList:
            slots = [
                Slot(
                    Pattern.NS,
                    heads,
                    dim,
                    length,
                    layer=layer,
                    layers=depth,
                    rotary=ROTARY_BASE if rotary else None,
                )
                for layer in range(depth)
            ]
            layer_of = FeedForwardTransformer
            return nn.ModuleList(
                layer_of(attention(slot), width, mlp, kernel=kernel, dropout=dropout, norm=norm) for slot in slots
            )

        self.encoder, self.decoder = blocks(source_len, encoder_layers), blocks(max_len, layers)
        self.encoder_positions = SinusoidalPositions(source_len, width)
        self.decoder_positions = SinusoidalPositions(max_len, width)
        final = nn.LayerNorm if norm == "pre" else nn.Identity
        self.encoder_norm, self.decoder_norm = final(width), final(width)
        names = ("duration", "pitch", "energy") if variances else ("duration",)
        self.predictors = nn.ModuleDict({name: Predictor(width, predictor_kernel, predictor_dropout) for name in names})
        self.bins = nn.ModuleDict({name: nn.Embedding(BINS, width) for name in names[1:]})
        edges = torch.linspace(-DEVIATIONS, DEVIATIONS, BINS - 1, device="cpu")
        self.register_buffer("edges", edges, persistent=False)
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(width, bands)

    def forward(
        self,
        phonemes: Tensor,
        mask: Tensor | None,
        frames: Tensor,
        frame_mask: Tensor | None,
        variances: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the spectrogram (batch, n, bands), and what is predicted of each phoneme: name -> (batch, m).

        `frames` (batch, n) says which phoneme each frame is of. Durations are predicted as logarithms of frames + 1.
        `variances` (batch, m) have mean 0 and deviation 1; without them those predicted are used.
        """
        encoded, predicted = self._encode(phonemes, mask, variances)
        return self._decode(encoded, frames, frame_mask), predicted

    def speak(self, phonemes: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the spectrogram (batch, n, bands) with the durations that are predicted, and the frames (batch,).

        There is one frame at least, and `max_len` at most.
        """
        encoded, predicted = self._encode(phonemes, mask, None)
        durations = (predicted["duration"].float().exp() - 1).round().clamp(0, self.max_len).long()
        durations = durations if mask is None else durations.masked_fill(~mask, 0)
        durations[:, 0] += durations.sum(1) == 0
        ends = durations.cumsum(1)
        counts = ends[:, -1].clamp(max=self.max_len)
        frame = torch.arange(int(counts.max()), device=ends.device).expand(len(ends), -1).contiguous()
        phoneme = torch.searchsorted(ends, frame, right=True).clamp(max=ends.shape[1] - 1)
        return self._decode(encoded, phoneme, frame < counts[:, None]), counts

    def _encode(
        self, phonemes: Tensor, mask: Tensor | None, variances: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.dropout(self.encoder_positions(self.phonemes(phonemes)))
        for block in self.encoder:
            x = block(x, mask)
        x = self.encoder_norm(x)
        predicted = {}
        for name, predictor in self.predictors.items():  # the energy is predicted of what the pitch was added to
            predicted[name] = predictor(x, mask)
            if name in self.bins:
                values = predicted[name] if variances is None else variances[name]
                x = x + self.bins[name](torch.bucketize(values, self.edges))  # type: ignore[arg-type]
        return x, predicted

    def _decode(self, encoded: Tensor, frames: Tensor, mask: Tensor | None) -> Tensor:
        x = encoded.gather(1, frames[:, :, None].expand(-1, -1, encoded.shape[2]))
        x = self.dropout(self.decoder_positions(x))
        for block in self.decoder:
            x = block(x, mask)
        return self.head(self.decoder_norm(x))  # type: ignore[no-any-return]
