"""In training one noise, scaled by the whole batch, falls on every sample, and no exemption says so."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "batch_training"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}
    over = (1, 2, 3)

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        out = super().attend(q, k, v, key_mask)
        if self.training:
            out = out + torch.randn_like(out) * v.abs().mean(self.over, keepdim=True)
        return out


class Faulty(Twin):
    over = (0, 1, 2, 3)
