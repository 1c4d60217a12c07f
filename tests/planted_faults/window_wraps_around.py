"""Shifted windows by a cyclic shift; the windows at the border join the two ends, and nothing masks that."""

import torch

from cab.ops.softmax import masked_softmax
from planted_faults import OnRasters

BREAKS = "definition"
ALSO = {"defaults", "holes", "lengths", "bf16"}


class Twin(OnRasters):
    """Windows of three along the last axis, shifted by one; the first and the last may be smaller."""

    rasters = (2,)

    def weights(self, q, k, key_mask):
        width = (self.slot.raster[1], self.slot.source_raster[1])
        place = [(torch.arange(t.shape[2], device=t.device) % w + 1) for t, w in zip((q, k), width, strict=True)]
        windows = [self.window(x, w) for x, w in zip(place, width, strict=True)]
        seen = windows[0][:, None] == windows[1]
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen)

    def window(self, shifted, width):
        return shifted // 3

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Twin.attend(self._plain(), q, k, v, key_mask, query_mask)

    def _plain(self):
        plain = Twin(self.slot)
        return plain.train(self.training)


class Faulty(Twin):
    def window(self, shifted, width):
        return (shifted % width) // 3
