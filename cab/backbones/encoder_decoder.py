"""An encoder and a decoder with cross attention to it (Vaswani et al., arXiv 1706.03762).

Every self and cross attention layer is a slot. The encoder's slots are NS. The decoder's are CS and CC, or NS and NC in
a decoder that is not causal.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from cab.backbones.dropout import Dropout
from cab.backbones.encoder import NORMS, Encoder
from cab.backbones.positions import ROTARY_BASE, position_encoding
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.contracts.task import LayerFactory
from cab.errors import unknown


class DecoderBlock(nn.Module):
    """Self attention, cross attention and a feed-forward network, each with a residual connection, dropout and norm."""

    def __init__(
        self, attention: nn.Module, cross: nn.Module, width: int, mlp: int, *, dropout: float, norm: str
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(str(unknown("norm", norm, NORMS)))
        self.norm_first = norm == "pre"
        self.attention, self.cross = attention, cross
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), Dropout(dropout), nn.Linear(mlp, width))
        self.attention_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, x_mask: Tensor | None, y: Tensor, y_mask: Tensor | None, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the block's output (batch, n, width) for target x (batch, n, width) and source y (batch, m, width)."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), x_mask, inputs=inputs))
            x = x + self.dropout(self.cross(self.cross_norm(x), x_mask, y, y_mask, inputs=inputs))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]
        x = self.attention_norm(x + self.dropout(self.attention(x, x_mask, inputs=inputs)))
        x = self.cross_norm(x + self.dropout(self.cross(x, x_mask, y, y_mask, inputs=inputs)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]


class EncoderDecoder(nn.Module):
    """Turns ids of a target (batch, n) and of a source (batch, m) into logits for each target token.

    The encoder is built by the caller, has the decoder's width and may have no layers. `pattern` is that of the
    decoder's cross attention: with CC its self attention is causal (CS), with NC noncausal (NS). `raster` and
    `source_raster` are the layouts of the target's and of the source's tokens.
    """

    def __init__(
        self,
        attention: LayerFactory,
        pattern: Pattern,
        encoder: Encoder,
        *,
        classes: int,
        vocabulary: int,
        max_len: int,
        source_len: int,
        heads: int,
        dim: int,
        layers: int,
        mlp: int,
        width: int | None = None,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "learned",
        embedding_std: float = 1.0,
        raster: tuple[int, ...] | None = None,
        source_raster: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        width = heads * dim if width is None else width
        if not pattern.cross:
            raise ValueError(f"pattern={pattern.value}: a decoder reads its source in CC or NC")
        if encoder.width != width:
            raise ValueError(f"the encoder's width is {encoder.width}, the decoder's {width}: they must be equal")
        self.encoder, self.width = encoder, width
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=embedding_std)
        self.positions = position_encoding(positions, max_len, width)
        rotary = ROTARY_BASE if positions == "rotary" else None
        self_pattern = Pattern.CS if pattern.causal else Pattern.NS
        self.blocks = nn.ModuleList()
        for layer in range(layers):
            self_slot = Slot(
                self_pattern,
                heads,
                dim,
                max_len,
                width=width,
                raster=raster,
                layer=layer,
                layers=layers,
                rotary=rotary,
            )
            cross_slot = replace(
                self_slot,
                pattern=pattern,
                source_len=source_len,
                source_raster=source_raster,
                rotary=None,
            )
            block = DecoderBlock(attention(self_slot), attention(cross_slot), width, mlp, dropout=dropout, norm=norm)
            self.blocks.append(block)
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(
        self,
        x: Tensor,
        x_mask: Tensor | None,
        y: Tensor,
        y_mask: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return logits (batch, n, classes). `inputs` are for the decoder's layers alone."""
        source, y_mask = self.encoder(y, y_mask)
        out = self.dropout(self.positions(self.tokens(x)))
        for block in self.blocks:
            out = block(out, x_mask, source, y_mask, inputs or {})
        return self.head(self.norm(out))  # type: ignore[no-any-return]
