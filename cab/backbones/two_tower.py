"""A two-tower model: one encoder reads two sequences separately, and a head classifies the pair of their vectors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cab.backbones.encoder import POOLINGS, Encoder, pooled


class TwoTower(nn.Module):
    """A shared encoder, one pooled vector a sequence, and a head with two hidden layers.

    The head reads both vectors, and with `interaction` their product and difference too. `pools_padding` is the quirk
    `padding-is-pooled` of Long Range Arena's released code.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        classes: int,
        hidden: int,
        pooling: str = "mean",
        interaction: bool = True,
        pools_padding: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS or (pooling == "cls") != (encoder.cls is not None):
            raise ValueError(f"pooling={pooling!r}: one of {', '.join(POOLINGS)}, and cls with a class token alone")
        self.encoder, self.pooling = encoder, pooling
        self.interaction, self.pools_padding = interaction, pools_padding
        features = (4 if interaction else 2) * encoder.width
        half = max(1, hidden // 2)
        self.head = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, half), nn.ReLU(), nn.Linear(half, classes)
        )

    def forward(
        self,
        x: Tensor,
        x_mask: Tensor | None,
        y: Tensor,
        y_mask: Tensor | None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return logits (batch, classes) of two sequences of ids, x and y, both (batch, n).

        `inputs` have the rows of x first, then those of y.
        """
        mask = None if x_mask is None or y_mask is None else torch.cat([x_mask, y_mask])
        out, mask = self.encoder(torch.cat([x, y]), mask, inputs)
        a, b = pooled(out, None if self.pools_padding else mask, self.pooling).chunk(2)
        features = [a, b, a * b, a - b] if self.interaction else [a, b]
        return self.head(torch.cat(features, -1))  # type: ignore[no-any-return]
