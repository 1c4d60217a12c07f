"""An encoder and a decoder that reads it (Vaswani et al., arXiv 1706.03762): self and cross attention, a slot each.

The encoder's slots are NS, the decoder's CS and CC, or NS and NC where it writes all of the target at once.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from cab.backbones.dropout import Dropout
from cab.backbones.encoder import NORMS, Encoder
from cab.backbones.positions import ROTARY_BASE, added
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.contracts.task import Attention
from cab.errors import unknown


class CrossBlock(nn.Module):
    """Self attention, cross attention and a feed-forward network, each with residual, dropout and norm."""

    def __init__(
        self, attention: nn.Module, cross: nn.Module, width: int, mlp: int, *, dropout: float, norm: str
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(str(unknown("norm", norm, NORMS)))
        self.pre = norm == "pre"
        self.attention, self.cross = attention, cross
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), Dropout(dropout), nn.Linear(mlp, width))
        self.attention_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, x_mask: Tensor | None, y: Tensor, y_mask: Tensor | None, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Take the target's tokens x and the encoder's y; return the target's."""
        if self.pre:
            x = x + self.dropout(self.attention(self.attention_norm(x), x_mask, inputs=inputs))
            x = x + self.dropout(self.cross(self.cross_norm(x), x_mask, y, y_mask, inputs=inputs))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]
        x = self.attention_norm(x + self.dropout(self.attention(x, x_mask, inputs=inputs)))
        x = self.cross_norm(x + self.dropout(self.cross(x, x_mask, y, y_mask, inputs=inputs)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]


class EncoderDecoder(nn.Module):
    """Ids of a target (batch, n) and of a source (batch, m) in, logits for each target token out.

    The encoder is built by the caller, has the decoder's width and may have no layer. `pattern` is the decoder's cross
    attention: CC makes its self attention causal too, NC makes neither so.
    """

    def __init__(
        self,
        attention: Attention,
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
        self.positions = added(positions, max_len, width)
        rotary = ROTARY_BASE if positions == "rotary" else None
        own = Pattern.CS if pattern.causal else Pattern.NS
        self.blocks = nn.ModuleList()
        for layer in range(layers):
            near = Slot(own, heads, dim, max_len, width=width, layer=layer, layers=layers, rotary=rotary)
            far = Slot(pattern, heads, dim, max_len, source_len, width=width, layer=layer, layers=layers)
            block = CrossBlock(attention(near), attention(far), width, mlp, dropout=dropout, norm=norm)
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
        """Return logits (batch, n, classes). `inputs` are for the decoder's layers; the encoder's get none."""
        source, y_mask = self.encoder(y, y_mask)
        out = self.dropout(self.positions(self.tokens(x)))
        for block in self.blocks:
            out = block(out, x_mask, source, y_mask, inputs or {})
        return self.head(self.norm(out))  # type: ignore[no-any-return]
