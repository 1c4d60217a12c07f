"""The first layers are causal; from the fourth on every query sees its next token."""

import torch

from cab.ops.softmax import masked_softmax
from planted_faults import CausalSelf as Twin

BREAKS = "gradient"
ALSO = {"truncation", "suffix", "training"}


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        ahead = 1 if self.slot.layer > 2 else 0
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(ahead)
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen)
