"""Divides by the sample variance of the values over the sequence, which one token does not have."""

import torch

from planted_faults import Twin as Softmax
from planted_faults import masked_mean

BREAKS = "lengths"
ALSO = {"padding", "empty", "definition", "autocast"}  # where one real token is left, or none


class Twin(Softmax):
    patterns = {"NS": "native"}
    min_count = 1

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        real = torch.ones(v.shape[0], v.shape[2], device=v.device).bool() if key_mask is None else key_mask
        deviation = (v - masked_mean(v, real)) * real[:, None, :, None]
        count = real.sum(1)[:, None, None, None] - 1
        variance = deviation.square().sum(2, keepdim=True) / count.clamp(min=self.min_count)
        return super().attend(q, k, v, key_mask) / (1 + variance)


class Faulty(Twin):
    min_count = 0
