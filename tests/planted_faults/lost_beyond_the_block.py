"""Linear attention in blocks of 64: a block uses the state of the block before it, but of no earlier one."""

import torch
import torch.nn.functional as F

from planted_faults import Twin as Softmax

BREAKS = "defaults"  # the calls of all other laws fit into two blocks
ALSO = set()
BLOCK = 64


class Twin(Softmax):
    patterns = {"CS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        n, tail = q.shape[2], -q.shape[2] % BLOCK
        if key_mask is not None:
            v = v * key_mask[:, None, :, None]
        q, k, v = (torch.unflatten(F.pad(t, (0, 0, 0, tail)), 2, (-1, BLOCK)) for t in (q, k, v))
        out = (q @ k.transpose(-1, -2)).tril() @ v + q @ self.prefix_state(k.transpose(-1, -2) @ v)
        return out.flatten(2, 3)[:, :, :n]

    def prefix_state(self, states):
        return states.cumsum(2) - states

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        weights = (q @ k.transpose(-1, -2)).tril()
        return (weights if key_mask is None else weights * key_mask[:, None, None, :]) @ v

    def flops(self, n, m, backend="eager"):
        dim, size = self.slot.dim, self.slot.values
        return 2.0 * self.slot.heads * -(-n // BLOCK) * BLOCK * (BLOCK * (dim + size) + 2 * dim * size)


class Faulty(Twin):
    def prefix_state(self, states):
        return F.pad(states, (0, 0, 0, 0, 1, 0))[:, :, :-1]
