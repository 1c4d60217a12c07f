"""It accepts patterns that the card does not list."""

import torch

from planted_faults import NoncausalSelf as Twin

BREAKS = "refuses"
ALSO = set()


class Faulty(Twin):
    @classmethod
    def refuse(cls, slot, params):
        """Refuse nothing."""

    def __init__(self, slot):
        torch.nn.Module.__init__(self)
        self.slot, self.backend, self._compute, self.grade = slot, "eager", self.attend, "native"
