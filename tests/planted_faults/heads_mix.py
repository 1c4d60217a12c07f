"""Talking heads without an exemption that says so."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "heads"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}
    exempt = {"heads": "heads exchange their weights: that is the mechanism"}

    def __init__(self, slot):
        super().__init__(slot)
        self.head_mixing = torch.nn.Parameter(torch.eye(slot.heads))

    def weights(self, q, k, key_mask):
        return torch.einsum("bhij,hg->bgij", super().weights(q, k, key_mask), self.head_mixing)

    def flops(self, n, m, backend="eager"):
        return super().flops(n, m) + 2.0 * self.slot.heads**2 * n * m


class Faulty(Twin):
    exempt = {}
