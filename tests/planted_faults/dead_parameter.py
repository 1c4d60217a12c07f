"""A gate that only causal patterns use is a parameter in all patterns."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "learning"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native", "CC": "native"}
    gate_in_all_patterns = False

    def __init__(self, slot):
        super().__init__(slot)
        if slot.pattern.causal or self.gate_in_all_patterns:
            self.gate = torch.nn.Parameter(torch.ones(slot.heads, 1, 1))

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        out = super().attend(q, k, v, key_mask)
        return out * self.gate if self.slot.pattern.causal else out


class Faulty(Twin):
    gate_in_all_patterns = True
