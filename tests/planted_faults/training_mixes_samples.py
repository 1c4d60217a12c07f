"""In training the noise is scaled by a mean over the whole batch, and no exemption says so."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "batch_training"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}
    axes = (1, 2, 3)
    exempt = {"modes": "in training noise is added"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        out = super().attend(q, k, v, key_mask)
        if self.training:
            real = torch.ones_like(v[:, :1, :, :1]) if key_mask is None else key_mask[:, None, :, None].to(v.dtype)
            scale = (v.abs() * real).sum(self.axes, keepdim=True) / real.sum(self.axes, keepdim=True).clamp(min=1)
            out = out + torch.randn_like(out) * scale
        return out


class Faulty(Twin):
    axes = (0, 1, 2, 3)
