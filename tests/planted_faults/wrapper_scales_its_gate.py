"""A wrapper whose gate is a tenth larger than its definition says."""

import torch
from torch import nn

from cab import Wrapper

BREAKS = "definition"
ALSO = {"defaults", "lengths", "bf16", "grouped"}


class Twin(Wrapper):
    """Gates the output by the sigmoid of the token."""

    inputs = {"x": ("queries", "real", "width")}
    checks = ({"inner": {"name": "mean"}},)

    def __init__(self, slot, *, inner):
        super().__init__(slot, inner=inner)
        self.gate = nn.Linear(slot.tokens, 1)

    def around(self, inner, *, q, k, v, key_mask, query_mask, x):
        return inner(q, k, v) * torch.sigmoid(self.gate(x)).unsqueeze(1)

    def reference_around(self, inner, *, q, k, v, key_mask, query_mask, x):
        weight, bias = self.gate.weight[0], self.gate.bias[0]
        gates = [1 / (1 + torch.exp(-(token @ weight) - bias)) for token in x[0]]
        return inner(q, k, v) * torch.stack(gates)[:, None]

    def own_flops(self, n, m):
        return 2.0 * n * self.slot.tokens


class Faulty(Twin):
    def around(self, inner, *, q, k, v, key_mask, query_mask, x):
        return inner(q, k, v) * (1.1 * torch.sigmoid(self.gate(x))).unsqueeze(1)
