"""The mask is reduced to a number of tokens, but on a raster any token may be masked."""

import torch

from planted_faults import OnRasters as Twin

BREAKS = "holes"
ALSO = set()


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        if key_mask is not None:
            key_mask = torch.arange(k.shape[2], device=k.device) < key_mask.sum(1, keepdim=True)
        return super().weights(q, k, key_mask)
