"""Streaming drops the last token of each step from the state."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "streaming"
ALSO = {"ragged", "defaults", "bf16"}


class Twin(Softmax):
    """Keeps every key and value, and which of them are real."""

    patterns = {"CS": "native"}

    def init_state(self, k, v, key_mask=None):
        return k, v, torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)

    def step(self, state, q, k=None, v=None, key_mask=None):
        mask = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask
        keys, values, real = (
            torch.cat([old, new], old.dim() - 2 if old.dim() == 4 else 1)
            for old, new in zip(state, (k, v, mask), strict=True)
        )
        past = keys.shape[2] - k.shape[2]
        q = torch.cat([q.new_zeros(*q.shape[:2], past, q.shape[3]), q], 2)
        return self.attend(q, keys, values, real)[:, :, past:], self.new_state(keys, values, real)

    def new_state(self, keys, values, real):
        return keys, values, real


class Faulty(Twin):
    def new_state(self, keys, values, real):
        return keys[:, :, :-1], values[:, :, :-1], real[:, :-1]
