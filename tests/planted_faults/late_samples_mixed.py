"""Samples from the ninth on read the values of the one before: a batch is computed in pieces, of which one is wrong."""

import torch

from planted_faults import NoncausalSelf as Twin

BREAKS = "batch"
ALSO = set()


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if v.shape[0] > 8:
            v = torch.cat([v[:8], v[7:-1]])
        return super().attend(q, k, v, key_mask, query_mask)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Twin.attend(self, q, k, v, key_mask, query_mask)
