"""Models with logits at every token: a token classifier, and a decoder, which is one with causal attention."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cab.backbones.block_stream import BlockStream
from cab.backbones.encoder import Encoder
from cab.contracts.pattern import Pattern
from cab.contracts.task import LayerFactory


class TokenClassifier(nn.Module):
    """An encoder, and one linear map from each token's vector to logits.

    With `tied` the map's weights are the last `classes` token embeddings.
    """

    def __init__(self, encoder: Encoder, classes: int, tied: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.head: nn.Module = (
            TiedHead(encoder.tokens, classes, encoder.embedding_std) if tied else nn.Linear(encoder.width, classes)
        )

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        indices: Tensor | None = None,
    ) -> Tensor:
        """Return logits (batch, n, classes) of ids (batch, n); those of padding mean nothing.

        With `indices` (batch, p) of tokens, return the logits (batch, p, classes) of these tokens alone.
        """
        x, _ = self.encoder(ids, mask, inputs)
        if indices is not None:
            x = x.gather(1, indices[:, :, None].expand(-1, -1, x.shape[2]))
        return self.head(x)  # type: ignore[no-any-return]


class TiedHead(nn.Module):
    """A linear map whose weights are the last `classes` token embeddings.

    Embeddings begin with the standard deviation `std`. Where that would give logits of more than one, of vectors that
    have been normalised, they are scaled to one: by 1 / (std sqrt(width)).
    """

    def __init__(self, tokens: nn.Embedding, classes: int, std: float = 1.0) -> None:
        super().__init__()
        if not 1 <= classes <= tokens.num_embeddings:
            raise ValueError(f"{classes} classes cannot be tied to {tokens.num_embeddings} embeddings")
        self.tokens, self.classes = tokens, classes
        self.scale = min(1.0, 1.0 / (std * tokens.embedding_dim**0.5)) if std else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (..., classes) of vectors (..., width)."""
        return F.linear(x * self.scale, self.tokens.weight[-self.classes :])


class Decoder(TokenClassifier):
    """Blocks of causal self attention (slots CS): the logits at token i depend on tokens 0 to i.

    `sizes` are the encoder's: vocabulary, max_len, heads, dim, layers, mlp, and those that have defaults.
    """

    def __init__(self, attention: LayerFactory, classes: int, tied: bool = False, **sizes: Any) -> None:
        super().__init__(Encoder(attention, Pattern.CS, **sizes), classes, tied)
        self.offset = self.encoder.tokens.num_embeddings - classes  # of a class's token, where special ones come first

    def stream(self, first: Tensor) -> "TokenStream":
        """Begin sequences with the tokens `first` (batch, 1)."""
        return TokenStream(self, first)


class TokenStream:
    """Sequences of a `Decoder`, token by token: their logits, or the most likely ones."""

    def __init__(self, model: Decoder, first: Tensor) -> None:
        self.model, self.token, self.start = model, first, 0
        encoder = model.encoder
        self.blocks = BlockStream(list(encoder.blocks), encoder.tokens(first)[:, :0])

    @property
    def states(self) -> Any:
        """What is kept of the tokens so far."""
        return self.blocks.states

    def step(self, x: Tensor) -> Tensor:
        """Return the logits (batch, c, classes) after the next tokens x (batch, c)."""
        encoder = self.model.encoder
        out = self.blocks.step(encoder.positions(encoder.tokens(x), self.start))
        self.start += x.shape[1]
        return self.model.head(encoder.norm(out))  # type: ignore[no-any-return]

    def next(self) -> Tensor:
        """Return the most likely next tokens (batch, 1), and go on with them."""
        self.token = self.step(self.token).argmax(-1) + self.model.offset
        return self.token
