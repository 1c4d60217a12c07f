"""Transformer TTS (Li et al., arXiv 1809.08895): frames of a spectrogram after phonemes, some at each step.

The encoder's self attention is NS, the decoder's CS, its cross attention CC. Convolutions before the encoder, and after
the decoder where there is a `postnet`, move information between tokens too, unless their kernel is 1.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cab.backbones.block_stream import BlockStream
from cab.backbones.dropout import Dropout
from cab.backbones.encoder import EncoderBlock
from cab.backbones.encoder_decoder import DecoderBlock
from cab.backbones.fast_speech2 import Convolution
from cab.backbones.positions import ROTARY_BASE, SinusoidalPositions
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.contracts.task import LayerFactory

POSTNET_KERNEL = 5


class NormedConvolution(nn.Module):
    """A convolution, batch norm, an activation and dropout: (batch, n, width) to (batch, n, out).

    In training the statistics are of a batch's padding, too.
    """

    def __init__(self, width: int, out: int, kernel: int, activation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.convolution, self.norm = Convolution(width, out, kernel), nn.BatchNorm1d(out)
        self.activation, self.dropout = activation, Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, n, out)."""
        x = self.norm(self.convolution(x, mask).transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.activation(x))  # type: ignore[no-any-return]


class TransformerTTS(nn.Module):
    """Turns phonemes (batch, m) into a log-mel spectrogram, `frames` frames a step, in `max_len` steps at most.

    `convolutions` of `kernel` are before the encoder, `postnet` after the decoder; both are numbers of layers. The
    decoder's positions are `rate` apart, so that they go along with those of the phonemes (Ping et al., arXiv
    1710.07654, section 3.6). `prenet` is the hidden size of the two layers that the decoder reads frames through.
    """

    def __init__(
        self,
        attention: LayerFactory,
        *,
        vocabulary: int,
        bands: int,
        frames: int,
        max_len: int,
        source_len: int,
        heads: int,
        dim: int,
        layers: int,
        encoder_layers: int,
        mlp: int,
        dropout: float = 0.0,
        norm: str = "pre",
        rotary: bool = False,
        convolutions: int = 3,
        kernel: int = 5,
        convolution_dropout: float = 0.5,
        prenet: int = 256,
        prenet_dropout: float = 0.5,
        postnet: int = 5,
        rate: float = 1.0,
    ) -> None:
        super().__init__()
        width, group = heads * dim, frames * bands
        self.frames, self.bands, self.max_len = frames, bands, max_len
        self.phonemes = nn.Embedding(vocabulary, width)
        self.convolutions = nn.ModuleList(
            NormedConvolution(width, width, kernel, nn.ReLU(), convolution_dropout) for _ in range(convolutions)
        )
        self.projection = nn.Linear(width, width)
        self.encoder_positions = SinusoidalPositions(source_len, width)
        base = ROTARY_BASE if rotary else None
        self.encoder = nn.ModuleList()
        for layer in range(encoder_layers):
            slot = Slot(Pattern.NS, heads, dim, source_len, layer=layer, layers=encoder_layers, rotary=base)
            self.encoder.append(EncoderBlock(attention(slot), width, mlp, dropout=dropout, norm=norm))
        self.prenet = nn.Sequential(
            nn.Linear(group, prenet),
            nn.ReLU(),
            Dropout(prenet_dropout),
            nn.Linear(prenet, prenet),
            nn.ReLU(),
            Dropout(prenet_dropout),
            nn.Linear(prenet, width),
        )
        self.decoder_positions = SinusoidalPositions(max_len, width, rate)
        self.decoder = nn.ModuleList()
        for layer in range(layers):
            slot = Slot(Pattern.CS, heads, dim, max_len, layer=layer, layers=layers, rotary=base)
            cross = replace(slot, pattern=Pattern.CC, source_len=source_len, rotary=None)
            block = DecoderBlock(attention(slot), attention(cross), width, mlp, dropout=dropout, norm=norm)
            self.decoder.append(block)
        final = nn.LayerNorm if norm == "pre" else nn.Identity
        self.encoder_norm, self.decoder_norm = final(width), final(width)
        self.dropout = Dropout(dropout)
        self.head, self.stop = nn.Linear(width, group), nn.Linear(width, 1)
        sizes = [bands, *[512] * (postnet - 1), bands]
        self.postnet = nn.ModuleList(
            NormedConvolution(
                sizes[i], sizes[i + 1], POSTNET_KERNEL, nn.Tanh() if i < postnet - 1 else nn.Identity(), 0.5
            )
            for i in range(postnet)
        )

    def forward(
        self, x: Tensor, x_mask: Tensor | None, y: Tensor, y_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the frames (batch, n, frames * bands) before and after the postnet, and logits of the end (batch, n).

        x (batch, n, frames * bands) are the frames of the step before, zeros at first; y (batch, m) are phonemes.
        """
        source = self.encode(y, y_mask)
        out = self.dropout(self.decoder_positions(self.prenet(x)))
        for block in self.decoder:
            out = block(out, x_mask, source, y_mask, {})
        before, stop = self._read(out)
        return before, self.refined(before, x_mask), stop

    def encode(self, y: Tensor, y_mask: Tensor | None) -> Tensor:
        """Return a vector (batch, m, width) of each phoneme."""
        out = self.phonemes(y)
        for convolution in self.convolutions:
            out = convolution(out, y_mask)
        out = self.dropout(self.encoder_positions(self.projection(out)))
        for block in self.encoder:
            out = block(out, y_mask, {})
        return self.encoder_norm(out)  # type: ignore[no-any-return]

    def refined(self, mel: Tensor, mask: Tensor | None) -> Tensor:
        """Return frames (batch, n, frames * bands) with what the postnet adds to them; `mask` is (batch, n)."""
        if not len(self.postnet):
            return mel
        single = mel.reshape(len(mel), -1, self.bands)
        single_mask = None if mask is None else mask.repeat_interleave(self.frames, 1)
        out = single
        for convolution in self.postnet:
            out = convolution(out, single_mask)
        return (single + out).reshape(mel.shape)

    def stream(self, y: Tensor, y_mask: Tensor | None) -> "FrameStream":
        """Encode phonemes, and begin a spectrogram."""
        return FrameStream(self, y, y_mask)

    @torch.no_grad()
    def speak(self, y: Tensor, y_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the spectrogram (batch, n, bands), each step after its own last one, and the frames (batch,).

        An example ends with the first step whose logit of the end is above 0, or after `max_len` steps.
        """
        stream = self.stream(y, y_mask)
        groups: list[Tensor] = []
        steps = torch.full((len(y),), self.max_len, device=y.device)
        while len(groups) < int(steps.max()):
            group, stop = stream.next()
            groups.append(group)
            steps = steps.where((steps <= len(groups)) | (stop[:, 0] <= 0), torch.tensor(len(groups), device=y.device))
        mask = torch.arange(len(groups), device=y.device) < steps[:, None]
        mel = self.refined(torch.cat(groups, 1), mask)
        return mel.reshape(len(mel), -1, self.bands), self.frames * steps

    def _read(self, out: Tensor) -> tuple[Tensor, Tensor]:
        out = self.decoder_norm(out)
        return self.head(out), self.stop(out).squeeze(-1)


class FrameStream:
    """Frames of a `TransformerTTS` before its postnet, step by step."""

    def __init__(self, model: TransformerTTS, y: Tensor, y_mask: Tensor | None) -> None:
        self.model, self.start = model, 0
        source = model.encode(y, y_mask)
        self.blocks = BlockStream(list(model.decoder), source[:, :0], source, y_mask)
        self.group = torch.zeros(len(y), 1, model.frames * model.bands, dtype=model.head.weight.dtype, device=y.device)

    @property
    def states(self) -> Any:
        """What is kept of the steps so far."""
        return self.blocks.states

    def next(self) -> tuple[Tensor, Tensor]:
        """Return the frames (batch, 1, frames * bands) of the next step and its logits of the end, and go on."""
        self.group, stop = self.step(self.group)
        return self.group, stop

    def step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next frames (batch, c, frames * bands) and logits of the end (batch, c), given those before."""
        model = self.model
        out = self.blocks.step(model.decoder_positions(model.prenet(x), self.start))
        self.start += x.shape[1]
        return model._read(out)
