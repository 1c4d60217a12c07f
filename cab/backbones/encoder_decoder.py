"""An encoder and a decoder with cross attention to it (Vaswani et al., arXiv 1706.03762).

Every self and cross attention layer is a slot. The encoder's slots are NS. The decoder's are CS and CC, or NS and NC in
a decoder that is not causal.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cab.backbones.block_stream import BlockStream
from cab.backbones.decoder import TiedHead
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
        return self._composed(
            x,
            lambda t: self.attention(t, x_mask, inputs=inputs),
            lambda t: self.cross(t, x_mask, y, y_mask, inputs=inputs),
        )

    @property
    def streams(self) -> bool:
        """Whether both layers can decode token by token."""
        return all(getattr(layer, "streams", False) for layer in (self.attention, self.cross))

    def init_state(self, x: Tensor, y: Tensor, y_mask: Tensor | None) -> Any:
        """Begin a stream: x (batch, 0, width) is what precedes the first token, y (batch, m, width) the source."""
        return self.attention.init_state(x), self.cross.init_state(x, y, y_mask)  # type: ignore[operator]

    def step(self, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        """Return the output of the next tokens x (batch, c, width), as `forward` has it, and the new state."""
        states = list(state)

        def step_of(index: int, layer: Any) -> Callable[[Tensor], Tensor]:
            def stepped(t: Tensor) -> Tensor:
                out: Tensor
                out, states[index] = layer.step(states[index], t)
                return out

            return stepped

        return self._composed(x, step_of(0, self.attention), step_of(1, self.cross)), tuple(states)

    def _composed(self, x: Tensor, attend: Callable[[Tensor], Tensor], cross: Callable[[Tensor], Tensor]) -> Tensor:
        """Put the sublayers around x, with residual connections and norms."""
        if self.norm_first:
            x = x + self.dropout(attend(self.attention_norm(x)))
            x = x + self.dropout(cross(self.cross_norm(x)))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]
        x = self.attention_norm(x + self.dropout(attend(x)))
        x = self.cross_norm(x + self.dropout(cross(x)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]


class EncoderDecoder(nn.Module):
    """Turns ids of a target (batch, n) and of a source (batch, m) into logits for each target token.

    The encoder is built by the caller, has the decoder's width and may have no layers. `pattern` is that of the
    decoder's cross attention: with CC its self attention is causal (CS), with NC noncausal (NS). `raster` and
    `source_raster` are the layouts of the target's and of the source's tokens. With `tied` the embeddings of source and
    target and the weights of the logits are one table (section 3.4).
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
        tied: bool = False,
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
        if tied and encoder.tokens.num_embeddings != vocabulary:
            raise ValueError(f"vocabulary={vocabulary}: tied, it is the encoder's {encoder.tokens.num_embeddings}")
        self.tokens = encoder.tokens if tied else nn.Embedding(vocabulary, width)
        if not tied:
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
        self.head: nn.Module = (
            TiedHead(self.tokens, classes, encoder.embedding_std) if tied else nn.Linear(width, classes)
        )

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

    def stream(self, y: Tensor, y_mask: Tensor | None = None, first: int = 0) -> "TargetStream":
        """Encode a source (batch, m), and begin a target with the token `first`."""
        return TargetStream(self, y, y_mask, first)


class TargetStream:
    """A target of a causal `EncoderDecoder`, token by token: their logits, or the most likely ones."""

    def __init__(self, model: EncoderDecoder, y: Tensor, y_mask: Tensor | None, first: int) -> None:
        self.model, self.start = model, 0
        source, y_mask = model.encoder(y, y_mask)
        self.blocks = BlockStream(list(model.blocks), source[:, :0], source, y_mask)
        self.token = y.new_full((len(y), 1), first)

    @property
    def states(self) -> Any:
        """What is kept of the tokens so far."""
        return self.blocks.states

    def next(self, forbidden: int | None = None) -> Tensor:
        """Return the most likely next tokens (batch, 1), none of which is `forbidden`, and go on with them."""
        logits = self.step(self.token)
        if forbidden is not None:
            logits[..., forbidden] = torch.finfo(logits.dtype).min
        self.token = logits.argmax(-1)
        return self.token

    def step(self, x: Tensor) -> Tensor:
        """Return the logits (batch, c, classes) of the next tokens x (batch, c)."""
        model = self.model
        out = self.blocks.step(model.positions(model.tokens(x), self.start))
        self.start += x.shape[1]
        return model.head(model.norm(out))  # type: ignore[no-any-return]


@torch.no_grad()
def greedy(
    model: EncoderDecoder, y: Tensor, y_mask: Tensor | None, *, first: int, end: int, most: int, least: int = 0
) -> Tensor:
    """Continue the token `first` by the most likely tokens until each example has `end`: ids (batch, most at most).

    No example ends before `least` tokens; after its `end` it has `end` alone.
    """
    stream = model.stream(y, y_mask, first)
    tokens: list[Tensor] = []
    ended = torch.zeros(len(y), 1, dtype=torch.bool, device=y.device)
    while len(tokens) < most and not ended.all():
        token = stream.next(forbidden=end if len(tokens) < least else None).masked_fill(ended, end)
        ended = ended | (token == end)
        tokens.append(token)
    return torch.cat(tokens, 1)
