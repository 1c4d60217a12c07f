"""The card does not list a pattern, and the constructor takes it all the same."""

import torch

from planted_faults import NoncausalSelf as Twin

BREAKS = "refuses"
ALSO = set()


class Faulty(Twin):
    def __init__(self, slot):
        torch.nn.Module.__init__(self)
        self.slot, self.backend, self._compute, self.grade = slot, "eager", self.attend, "native"
