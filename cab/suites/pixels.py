"""Classification of grey images whose pixels are the tokens, row by row: ids are 0 to 255, and nothing is padded.

`protocol=lra` has two quirks of the released code: `zero-is-padding` (black pixels are masked as if they were padding)
and `padding-is-pooled`. With `raster` the slots know that the tokens are an image; else they see a sequence.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np
import torch

from cab.contracts.task import Batch
from cab.suites.classification import Classification, targets


class PixelClassification(Classification):
    """Examples are (pixels, label), with bytes (n,) as pixels."""

    vocabulary = 256
    rasters = ((2, {"raster": True}), 1)
    holes = {"protocol": "lra"}

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        protocol: str = "clean",
        raster: bool = False,
        layers: int = 2,
        width: int | None = None,
        mlp: int = 128,
        dropout: float = 0.1,
        norm: str = "pre",
        positions: str = "learned",
        pooling: str = "mean",
        embedding_std: float = 1.0,
    ) -> None:
        super().__init__(
            seq_len=seq_len, source_len=source_len, heads=heads, dim=dim, protocol=protocol, layers=layers, width=width,
            mlp=mlp, dropout=dropout, norm=norm, positions=positions, pooling=pooling, embedding_std=embedding_std,
        )  # fmt: skip
        if raster and self.cls:
            raise ValueError("raster=True: a raster has no place for a class token; take pooling=mean or max")
        side = isqrt(self.max_tokens)
        if raster and side**2 != self.max_tokens:
            raise ValueError(f"seq_len={seq_len}: with raster=True a square of pixels is needed")
        self.sizes["raster"] = (side, side) if raster else None

    def collate(self, examples: Sequence[Any], trim: bool = False) -> Batch:
        """Stack the images."""
        x = torch.from_numpy(np.stack([pixels for pixels, _ in examples]).astype(np.int64))
        return Batch(x, x > 0 if self.as_released else None, target=targets(examples))
