"""Classification of grey images whose pixels are the tokens, row by row: ids are 0 to 255, and nothing is padded.

`protocol=lra` has two quirks of the released code: `zero-is-padding` (black pixels are masked as if they were padding)
and `padding-is-pooled`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cab.contracts.task import Batch
from cab.suites.classification import Classification, targets


class PixelClassification(Classification):
    """Examples are (pixels, label), with bytes (n,) as pixels."""

    vocabulary = 256

    def collate(self, examples: Sequence[Any], trim: bool = False) -> Batch:
        """Stack the images."""
        x = torch.from_numpy(np.stack([pixels for pixels, _ in examples]).astype(np.int64))
        return Batch(x, x > 0 if self.as_released else None, target=targets(examples))
