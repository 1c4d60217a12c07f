"""What is made of a parameter in the first evaluation is kept, and is of old weights when these have changed."""

import torch

from planted_faults import NoncausalSelf

BREAKS = "saving"
ALSO = set()


class Twin(NoncausalSelf):
    kept = False

    def __init__(self, slot):
        super().__init__(slot)
        self.weight = torch.nn.Parameter(torch.eye(slot.dim) + 0.1)
        self.squared = None

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        squared = self.weight @ self.weight if self.squared is None else self.squared
        if self.kept and not torch.is_grad_enabled():
            self.squared = squared
        return super().attend(q @ squared, k, v, key_mask, query_mask)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return NoncausalSelf.attend(self, q @ (self.weight @ self.weight), k, v, key_mask, query_mask)

    def flops(self, n, m, backend="eager"):
        return super().flops(n, m) + 2.0 * self.slot.heads * n * self.slot.dim**2 + 2.0 * self.slot.dim**3


class Faulty(Twin):
    kept = True
