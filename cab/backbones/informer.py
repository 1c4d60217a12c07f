"""Informer (Zhou et al., arXiv 2012.07436): an encoder over the past, and a decoder that forecasts in one pass.

Every self and cross attention layer is a slot: the encoder's are NS, the decoder's self attention CS, as released, and
its cross attention NC. Informer's own ProbSparse attention is a mechanism, and may be put into any of them.
"""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from cab.backbones.dropout import Dropout
from cab.backbones.encoder import EncoderBlock
from cab.backbones.encoder_decoder import DecoderBlock
from cab.backbones.positions import SinusoidalPositions
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.contracts.task import LayerFactory


class ValueEmbedding(nn.Module):
    """Embeds values by a circular convolution of kernel 3, adds sinusoids, and known features by a linear map."""

    def __init__(self, variables: int, known: int, max_len: int, width: int, dropout: float) -> None:
        super().__init__()
        self.values = nn.Conv1d(variables, width, 3, padding=1, padding_mode="circular", bias=False)
        self.known = nn.Linear(known, width, bias=False) if known else None
        self.positions, self.dropout = SinusoidalPositions(max_len, width), Dropout(dropout)

    def forward(self, values: Tensor, known: Tensor) -> Tensor:
        """Return vectors (batch, n, width) of values (batch, n, variables) and features (batch, n, known)."""
        x = self.values(values.transpose(1, 2)).transpose(1, 2)
        if self.known is not None:
            x = x + self.known(known)
        return self.dropout(self.positions(x))  # type: ignore[no-any-return]


class Distilling(nn.Module):
    """Halves a sequence (section 3.2, equation 5): convolution, batch norm, ELU, and a maximum of 3 with stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, ceil(n / 2), width) of x (batch, n, width)."""
        x = F.elu(self.norm(self.convolution(x.transpose(1, 2))))
        return F.max_pool1d(x, 3, stride=2, padding=1).transpose(1, 2)


class Informer(nn.Module):
    """Forecasts the last `horizon` rows of a target of `max_len` tokens from a source of `source_len`.

    With `distil` the source is halved after each encoder layer but the last.
    """

    def __init__(
        self,
        attention: LayerFactory,
        *,
        variables: int,
        known: int,
        max_len: int,
        source_len: int,
        horizon: int,
        heads: int,
        dim: int,
        layers: int,
        encoder_layers: int,
        mlp: int,
        dropout: float = 0.0,
        norm: str = "pre",
        distil: bool = False,
    ) -> None:
        super().__init__()
        width = heads * dim
        self.horizon = horizon
        self.source = ValueEmbedding(variables, known, source_len, width, dropout)
        self.target = ValueEmbedding(variables, known, max_len, width, dropout)
        self.encoder, self.distillings = nn.ModuleList(), nn.ModuleList()
        length = source_len
        for layer in range(encoder_layers):
            slot = Slot(Pattern.NS, heads, dim, length, layer=layer, layers=encoder_layers)
            self.encoder.append(EncoderBlock(attention(slot), width, mlp, dropout=dropout, norm=norm))
            if distil and layer < encoder_layers - 1:
                self.distillings.append(Distilling(width))
                length = -(-length // 2)
        self.decoder = nn.ModuleList()
        for layer in range(layers):
            slot = Slot(Pattern.CS, heads, dim, max_len, layer=layer, layers=layers)
            cross = replace(slot, pattern=Pattern.NC, source_len=length)
            block = DecoderBlock(attention(slot), attention(cross), width, mlp, dropout=dropout, norm=norm)
            self.decoder.append(block)
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, variables)

    def forward(self, x: Tensor, x_known: Tensor, y: Tensor, y_known: Tensor) -> Tensor:
        """Return forecasts (batch, horizon, variables).

        The target is x (batch, n, variables), zeros in its last `horizon` rows, the source y (batch, m, variables);
        `x_known` and `y_known` are their known features (batch, n or m, known).
        """
        source = self.source(y, y_known)
        for layer, block in enumerate(self.encoder):
            source = block(source, None, {})
            if layer < len(self.distillings):
                source = self.distillings[layer](source)
        source = self.encoder_norm(source)
        out = self.target(x, x_known)
        for block in self.decoder:
            out = block(out, None, source, None, {})
        return self.head(self.decoder_norm(out))[:, -self.horizon :]  # type: ignore[no-any-return]
