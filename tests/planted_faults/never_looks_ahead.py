"""Declared noncausal, but computes with a causal mask (CAB's S4D)."""

import torch

from cab.ops.softmax import masked_softmax
from planted_faults import NoncausalSelf as Twin

BREAKS = "use"
ALSO = set()


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen)
