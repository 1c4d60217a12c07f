"""In training the noise is scaled by a mean over the whole batch, and no exemption says so."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "batch_training"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}
    axes = (1, 2, 3)

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        out = super().attend(q, k, v, key_mask)
        if self.training:
            out = out + torch.randn_like(out) * v.abs().mean(self.axes, keepdim=True)
        return out


class Faulty(Twin):
    axes = (0, 1, 2, 3)
