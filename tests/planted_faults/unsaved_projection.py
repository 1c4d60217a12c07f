"""A random projection that is missing from the state dict (CAB's Performer)."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "saving"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}
    persistent = True

    def __init__(self, slot):
        super().__init__(slot)
        self.register_buffer("projection", torch.randn(slot.dim, slot.dim), persistent=self.persistent)

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q @ self.projection, k, v, key_mask)

    def flops(self, n, m, backend="eager"):
        return super().flops(n, m) + 2.0 * self.slot.heads * n * self.slot.dim**2


class Faulty(Twin):
    persistent = False
