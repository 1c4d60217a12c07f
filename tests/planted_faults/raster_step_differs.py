"""On a raster `step` forgets what came before the last row of tokens."""

import torch

from cab.ops.softmax import masked_softmax
from planted_faults import CausalOnRasters

BREAKS = "streaming"
ALSO = {"defaults", "bf16"}


class Twin(CausalOnRasters):
    """Keeps all keys and values while streaming."""

    def init_state(self, k, v, key_mask=None):
        mask = torch.ones(k.shape[0], 0, dtype=torch.bool, device=k.device)
        return k, v, mask

    def step(self, state, q, k=None, v=None, key_mask=None):
        if key_mask is None:
            key_mask = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
        new = k, v, key_mask
        keys, values, mask = (
            torch.cat(pair, axis) for pair, axis in zip(zip(state, new, strict=True), (2, 2, 1), strict=True)
        )
        ahead = torch.arange(keys.shape[2], device=k.device) - (keys.shape[2] - q.shape[2])
        seen = ahead <= torch.arange(q.shape[2], device=k.device)[:, None]
        weights = masked_softmax((q * self.slot.dim**-0.5) @ keys.transpose(-1, -2), seen & mask[:, None, None, :])
        return weights @ values, self.kept((keys, values, mask))

    def kept(self, state):
        return state


class Faulty(Twin):
    def kept(self, state):
        if not self.slot.raster:
            return state
        keys, values, mask = state
        width = self.slot.raster[1]
        return keys[:, :, -width:], values[:, :, -width:], mask[:, -width:]
