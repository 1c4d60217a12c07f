"""On a raster a query sees all earlier rows and, by mistake, the whole of its own."""

import torch

from cab.ops.softmax import masked_softmax
from planted_faults import CausalOnRasters as Twin

BREAKS = "truncation"
ALSO = {"suffix", "gradient", "training", "defaults"}


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        if not self.slot.raster:
            return super().weights(q, k, key_mask)
        row = torch.arange(q.shape[2], device=q.device) // self.slot.raster[1]
        seen = row <= row[:, None]
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen)
