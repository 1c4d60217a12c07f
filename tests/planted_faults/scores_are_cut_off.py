"""Scores are cut off at 15 instead of subtracting their maximum: no score of a normal distribution is as large."""

import torch

from planted_faults import NoncausalSelf as Twin

BREAKS = "definition"
ALSO = set()


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        weights = ((q * self.slot.dim**-0.5) @ k.transpose(-1, -2)).clamp(-15, 15).exp()
        if key_mask is not None:
            weights = weights * key_mask[:, None, None, :]
        total = weights.sum(-1, keepdim=True)
        return weights @ v / torch.where(total > 0, total, 1.0)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Twin.attend(self, q, k, v, key_mask, query_mask)
