"""Causal on a sequence; on a raster nothing is masked."""

import torch

from cab.ops.softmax import masked_softmax
from planted_faults import CausalOnRasters as Twin

BREAKS = "suffix"
ALSO = {"truncation", "gradient", "training", "defaults"}


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        if not self.slot.raster:
            return super().weights(q, k, key_mask)
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen)
