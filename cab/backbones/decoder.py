"""Models that answer at every token: an encoder with a linear map on top, and the causal one, a decoder."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cab.backbones.encoder import Encoder
from cab.contracts.pattern import Pattern
from cab.contracts.task import Attention


class Labeller(nn.Module):
    """An encoder, and one linear map from each token's vector to logits.

    With `tied` the map is the last embeddings' own: of v tokens, class i is token v - classes + i.
    """

    def __init__(self, encoder: Encoder, classes: int, tied: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.head: nn.Module = Tied(encoder.tokens, classes) if tied else nn.Linear(encoder.width, classes)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Return logits (batch, n, classes); those of padding mean nothing. With `places` (batch, p), theirs alone."""
        x, _ = self.encoder(ids, mask, inputs)
        if places is not None:
            x = x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))
        return self.head(x)  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Products with the last embeddings, over the square root of their size."""

    def __init__(self, tokens: nn.Embedding, classes: int) -> None:
        super().__init__()
        if not 1 <= classes <= tokens.num_embeddings:
            raise ValueError(f"{classes} classes cannot be tied to {tokens.num_embeddings} embeddings")
        self.tokens, self.classes = tokens, classes

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (..., classes)."""
        return F.linear(x * x.shape[-1] ** -0.5, self.tokens.weight[-self.classes :])


class Decoder(Labeller):
    """Blocks of causal self attention (slots CS): the logits at token i depend on the tokens up to i.

    `sizes` are the encoder's: vocabulary, max_len, heads, dim, layers, mlp, and those that have defaults.
    """

    def __init__(self, attention: Attention, classes: int, tied: bool = False, **sizes: Any) -> None:
        super().__init__(Encoder(attention, Pattern.CS, **sizes), classes, tied)
