"""Mechanisms with one planted fault each, to prove that the laws bite.

Every file has a class `Faulty`; `BREAKS`, the law that names its fault; `ALSO`, the laws that it must break besides;
and `Twin`, the correct mechanism that it differs from by the fault alone, which breaks none.
"""

import torch

from cab import Mechanism, Pattern
from cab.ops.softmax import masked_softmax


class Twin(Mechanism):
    """Softmax attention, no more than it needs."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return self.weights(q, k, key_mask) @ v

    def weights(self, q, k, key_mask):
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        if self.slot.pattern is Pattern.CS:
            seen = seen.tril()
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return self.attend(q, k, v, key_mask, query_mask)

    def flops(self, n, m, backend="eager"):
        return 2.0 * self.slot.heads * n * m * (self.slot.dim + self.slot.values)


class CausalSelf(Twin):
    patterns = {"CS": "native"}


class NoncausalSelf(Twin):
    patterns = {"NS": "native"}


def averaged(t, mask):
    """Average t (batch, heads, length, size) over its real tokens."""
    if mask is None:
        return t.mean(2, keepdim=True)
    real = mask[:, None, :, None].to(t.dtype)
    return (t * real).sum(2, keepdim=True) / real.sum(2, keepdim=True).clamp(min=1)
