"""Classifying grey images whose pixels are the tokens, row by row: x is 0 to 255, and nothing is padded.

`protocol=lra` keeps two quirks of the released code: `zero-is-padding` (black pixels are hidden from attention) and
`padding-is-pooled`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cab.contracts.task import Batch
from cab.suites.classification import Classification, targets


class PixelClassification(Classification):
    """Examples are (pixels, label)."""

    vocabulary = 256

    def collate(self, examples: Sequence[Any], trim: bool = False) -> Batch:
        """Stack; nothing is padded."""
        x = torch.from_numpy(np.stack([pixels for pixels, _ in examples]).astype(np.int64))
        return Batch(x, x > 0 if self.as_released else None, target=targets(examples))
