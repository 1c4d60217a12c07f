"""A transformer encoder over tokens (Vaswani et al., arXiv 1706.03762), and a classifier on top of it.

Every attention layer is a slot of one pattern. Nothing else moves information between positions before the final
pooling, and there is no convolution. What the model reads beyond a bag of tokens is therefore the mechanism's doing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cab.backbones.dropout import Dropout
from cab.backbones.positions import ROTARY_BASE, position_encoding
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.contracts.task import LayerFactory
from cab.errors import unknown

NORMS = ("post", "pre")
POOLINGS = ("cls", "max", "mean")


class EncoderBlock(nn.Module):
    """Self attention and a feed-forward network, each with a residual connection, dropout and layer norm.

    `norm` is pre (the norm is before the sublayer) or post (it is after the residual sum).
    """

    def __init__(self, attention: nn.Module, width: int, mlp: int, *, dropout: float, norm: str) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(str(unknown("norm", norm, NORMS)))
        self.norm_first = norm == "pre"
        self.attention = attention
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), Dropout(dropout), nn.Linear(mlp, width))
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the block's output (batch, n, width) for x (batch, n, width)."""
        return self._composed(x, lambda t: self.attention(t, mask, inputs=inputs))

    @property
    def streams(self) -> bool:
        """Whether its layer can decode token by token."""
        return bool(getattr(self.attention, "streams", False))

    def init_state(self, x: Tensor) -> Any:
        """Begin a stream: x (batch, 0, width) is what precedes the first token."""
        return self.attention.init_state(x)  # type: ignore[operator]

    def step(self, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        """Return the output of the next tokens x (batch, c, width), as `forward` has it, and the new state."""
        states = [state]

        def attend(t: Tensor) -> Tensor:
            out: Tensor
            out, states[0] = self.attention.step(states[0], t)  # type: ignore[operator]
            return out

        return self._composed(x, attend), states[0]

    def _composed(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Put the sublayers around x, with residual connections and norms."""
        if self.norm_first:
            x = x + self.dropout(attend(self.attention_norm(x)))
            x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        else:
            x = self.attention_norm(x + self.dropout(attend(x)))
            x = self.mlp_norm(x + self.dropout(self.mlp(x)))
        return x


class Encoder(nn.Module):
    """Turns token ids (batch, n) into one vector a token, (batch, n, width).

    With `cls` a learned class token is put first: there are n + 1 vectors, and `max_len` counts it. `width` is
    heads * dim by default. `embedding_std` is the standard deviation of the initial token embeddings. `raster` is the
    layout of the tokens, whose product is `max_len`; it has no place for a class token.
    """

    def __init__(
        self,
        attention: LayerFactory,
        pattern: Pattern,
        *,
        vocabulary: int,
        max_len: int,
        heads: int,
        dim: int,
        layers: int,
        mlp: int,
        width: int | None = None,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "learned",
        cls: bool = False,
        embedding_std: float = 1.0,
        raster: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if raster is not None and cls:
            raise ValueError(f"raster={raster}: a raster has no place for a class token; pool by mean or max")
        self.width = heads * dim if width is None else width
        self.tokens, self.embedding_std = nn.Embedding(vocabulary, self.width), embedding_std
        nn.init.normal_(self.tokens.weight, std=embedding_std)
        self.cls = nn.Parameter(torch.zeros(self.width)) if cls else None
        self.positions = position_encoding(positions, max_len, self.width)
        rotary = ROTARY_BASE if positions == "rotary" else None
        self.blocks = nn.ModuleList()
        for layer in range(layers):
            slot = Slot(
                pattern,
                heads,
                dim,
                max_len,
                width=self.width,
                raster=raster,
                layer=layer,
                layers=layers,
                rotary=rotary,
            )
            self.blocks.append(EncoderBlock(attention(slot), self.width, mlp, dropout=dropout, norm=norm))
        self.norm = nn.LayerNorm(self.width) if norm == "pre" else nn.Identity()
        self.dropout = Dropout(dropout)

    def forward(
        self, ids: Tensor, mask: Tensor | None = None, inputs: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the vectors, and a mask of those that are not padding (None = all)."""
        x = self.tokens(ids)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), 1, -1), x], 1)
            mask = None if mask is None else torch.cat([mask.new_ones(len(x), 1), mask], 1)
        x = self.dropout(self.positions(x))
        for block in self.blocks:
            x = block(x, mask, inputs or {})
        return self.norm(x), mask


class Classifier(nn.Module):
    """An encoder, a pooling of its output to one vector, and a head with one hidden layer.

    `pooling` is mean or max (channel by channel) over the real tokens, or cls, the class token of an encoder that has
    one.
    """

    def __init__(self, encoder: Encoder, *, classes: int, hidden: int, pooling: str = "mean") -> None:
        super().__init__()
        if pooling not in POOLINGS or (pooling == "cls") != (encoder.cls is not None):
            raise ValueError(f"pooling={pooling!r}: one of {', '.join(POOLINGS)}, and cls with a class token alone")
        self.encoder, self.pooling = encoder, pooling
        self.head = nn.Sequential(nn.Linear(encoder.width, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, ids: Tensor, mask: Tensor | None = None, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return logits (batch, classes) of ids (batch, n). A sequence without a real token is pooled to zeros."""
        x, mask = self.encoder(ids, mask, inputs)
        return self.head(pooled(x, mask, self.pooling))  # type: ignore[no-any-return]


def pooled(x: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Pool the real tokens of x (batch, n, width) to one vector (batch, width); `mask` (batch, n), None = all real."""
    if pooling == "cls":
        return x[:, 0]
    if mask is None:
        return x.amax(1) if pooling == "max" else x.mean(1)
    real = mask.unsqueeze(-1)
    if pooling == "max":
        maximum = x.masked_fill(~real, torch.finfo(x.dtype).min).amax(1)
        return maximum.masked_fill(~mask.any(1, keepdim=True), 0.0)
    return x.masked_fill(~real, 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
