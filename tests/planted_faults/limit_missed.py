"""Declared to equal softmax with decay 0, but decays a little even then."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "limits"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}
    limits = ({"params": {"decay": 0.0}, "equals": "softmax"},)
    min_decay = 0.0

    def __init__(self, slot, *, decay: float = 0.1):
        super().__init__(slot)
        self.decay = decay

    def weights(self, q, k, key_mask):
        positions = torch.arange(k.shape[2], dtype=q.dtype, device=q.device)
        distance = (positions[:, None] - positions[None, :]).abs()
        return super().weights(q, k, key_mask) * (-max(self.decay, self.min_decay) * distance).exp()


class Faulty(Twin):
    min_decay = 0.01
