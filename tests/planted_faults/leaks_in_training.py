"""As in batch norm, training subtracts the mean of the values over the sequence, and eval a learned one."""

import torch

from planted_faults import Twin as Softmax
from planted_faults import masked_mean

BREAKS = "training"
ALSO = {"modes"}


class Twin(Softmax):
    """Subtracts the learned mean in both modes."""

    patterns = {"CS": "native"}

    def __init__(self, slot):
        super().__init__(slot)
        self.mean = torch.nn.Parameter(torch.zeros(slot.heads, 1, slot.values))

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v - self.centre(v, key_mask), key_mask)

    def centre(self, v, key_mask):
        return self.mean


class Faulty(Twin):
    def centre(self, v, key_mask):
        return self.mean + masked_mean(v, key_mask) if self.training else self.mean
