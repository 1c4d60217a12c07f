"""`exp` of scores whose largest was not subtracted: right for small scores, and NaN for large ones."""

import torch

from planted_faults import NoncausalSelf as Twin

BREAKS = "use"
ALSO = set()


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        weights = ((q * self.slot.dim**-0.5) @ k.transpose(-1, -2)).exp()
        if key_mask is not None:
            weights = weights * key_mask[:, None, None, :]
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300 if weights.dtype == torch.float64 else 1e-30)
