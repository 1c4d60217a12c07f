"""A gate that only causal patterns use is a parameter in the others too."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "learning"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native", "CC": "native"}
    everywhere = False

    def __init__(self, slot):
        super().__init__(slot)
        if slot.pattern.causal or self.everywhere:
            self.gate = torch.nn.Parameter(torch.ones(slot.heads, 1, 1))

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        out = super().attend(q, k, v, key_mask)
        return out * self.gate if self.slot.pattern.causal else out


class Faulty(Twin):
    everywhere = True
