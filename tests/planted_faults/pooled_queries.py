"""A landmark pooled from all queries, in causal cross: an early row depends on later queries."""

import torch

from planted_faults import Twin as Softmax
from planted_faults import masked_mean

BREAKS = "suffix"
ALSO = {"truncation", "gradient", "training", "defaults"}


class Twin(Softmax):
    """The landmark is learned."""

    patterns = {"CC": "extension"}

    def __init__(self, slot):
        super().__init__(slot)
        self.landmark = torch.nn.Parameter(torch.randn(slot.heads, 1, slot.dim))

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q + self.pooled(q, query_mask), k, v, key_mask)

    def pooled(self, q, query_mask):
        return self.landmark


class Faulty(Twin):
    def pooled(self, q, query_mask):
        return self.landmark * masked_mean(q, query_mask)
