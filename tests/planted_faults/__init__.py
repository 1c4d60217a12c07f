"""Mechanisms with one planted fault each, to prove that the laws find faults.

Every file has a class `Faulty`, and a class `Twin` that is the same mechanism without the fault and breaks no law.
`BREAKS` is the law that is meant to find the fault; `ALSO` are all other laws that `Faulty` breaks.
"""

import torch

from cab import Mechanism, Pattern
from cab.ops.softmax import masked_softmax


class Twin(Mechanism):
    """Softmax attention, as short as possible."""

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


def masked_mean(t, mask):
    """Return the mean of t (batch, heads, length, size) over its real tokens."""
    if mask is None:
        return t.mean(2, keepdim=True)
    real = mask[:, None, :, None].to(t.dtype)
    return (t * real).sum(2, keepdim=True) / real.sum(2, keepdim=True).clamp(min=1)


class OnRasters(Twin):
    """Softmax attention that takes images and volumes too."""

    patterns = {"NS": "native", "NC": "native"}
    rasters = (1, 2, 3)


class CausalOnRasters(Twin):
    patterns = {"CS": "native"}
    rasters = (1, 2)
