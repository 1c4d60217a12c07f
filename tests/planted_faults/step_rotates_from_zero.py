"""It rotates queries and keys itself; every `step` rotates its tokens as if the first were at position 0."""

import torch

from cab.attention.layer import rotated
from cab.ops.softmax import masked_softmax
from planted_faults import CausalSelf

BREAKS = "streaming"
ALSO = set()


class Twin(CausalSelf):
    """Causal softmax with rotary positions of its own, and a state of unrotated tokens."""

    rotates = True

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if self.slot.rotary:
            q, k = rotated(q, self.slot.rotary), rotated(k, self.slot.rotary)
        return super().attend(q, k, v, key_mask, query_mask)

    def init_state(self, k, v, key_mask=None):
        return k, k, v, torch.ones(k.shape[0], 0, dtype=torch.bool, device=k.device)

    def step(self, state, q, k=None, v=None, key_mask=None):
        if key_mask is None:
            key_mask = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
        queries, keys, values = (torch.cat(pair, 2) for pair in zip(state[:3], (q, k, v), strict=True))
        mask = torch.cat([state[3], key_mask], 1)
        order = (~mask).to(torch.int8).argsort(dim=1, stable=True)  # the real tokens first: they alone have positions
        unsorted = order.argsort(dim=1)
        state = queries, keys, values, mask
        queries, keys, values = (t.take_along_dim(order[:, None, :, None], 2) for t in (queries, keys, values))
        out = self.attend(queries, keys, values, mask.take_along_dim(order, 1))
        return out.take_along_dim(unsorted[:, None, :, None], 2)[:, :, -q.shape[2] :], state


class Faulty(Twin):
    def step(self, state, q, k=None, v=None, key_mask=None):
        if not self.slot.rotary:
            return super().step(state, q, k, v, key_mask)
        if key_mask is None:
            key_mask = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
        q, k = rotated(q, self.slot.rotary), rotated(k, self.slot.rotary)
        queries, keys, values = (torch.cat(pair, 2) for pair in zip(state[:3], (q, k, v), strict=True))
        mask = torch.cat([state[3], key_mask], 1)
        seen = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool, device=q.device).tril()
        seen = seen & mask[:, None, None, :]
        weights = masked_softmax((queries * self.slot.dim**-0.5) @ keys.transpose(-1, -2), seen)
        return (weights @ values)[:, :, -q.shape[2] :], (queries, keys, values, mask)
