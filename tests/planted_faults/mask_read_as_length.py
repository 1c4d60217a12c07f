"""The mask is read as a number of tokens; on a raster any place may be missing."""

import torch

from planted_faults import NoncausalSelf as Twin

BREAKS = "raster"
ALSO = set()


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        if key_mask is not None:
            key_mask = torch.arange(k.shape[2], device=k.device) < key_mask.sum(1, keepdim=True)
        return super().weights(q, k, key_mask)
