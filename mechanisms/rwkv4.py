"""RWKV-4's time mixing (Peng et al., arXiv 2305.13048): in each channel an average of values that fades with distance.

With y'_t = the token before y_t, and mu, w > 0 and u learned for each channel,

    r, k, v = W (mu y_t + (1 - mu) y'_t), each with a mu and a W of its own
    wkv_t = (sum over j < t of exp(k_j - (t - 1 - j) w) v_j + exp(u + k_t) v_t) / (the sum of the weights)
    out_t = sigmoid(r_t) * wkv_t

The channels are heads * value_dim, and the output projection is the layer's. mu, w and u begin as the authors' do,
which differ by layer. CS is the paper's. Sums run in chunks (`cab.ops.wkv`).
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.time_mixing import mixed_maps, time_mixing
from cab.ops.token_shift import token_shift
from cab.ops.wkv import FLOOR, empty_wkv, wkv

Maybe = Tensor | None


class Rwkv4(Mechanism):
    """Every channel averages its values under weights that fade with distance, and is gated."""

    patterns = {"CS": "native"}
    refuses = {
        "NS": "its form that looks both ways is another mechanism, vision_rwkv",
        "NC": "it has no queries: all would read the same average of the source",
        "CC": "it has no queries: all would read the same average of the source",
    }
    paper = "arXiv 2305.13048"
    parity = "transformers (RwkvSelfAttention)"
    cost = "O(n d)"
    reads = ""
    inputs = {"y": ("keys", "real", "width")}
    accepts = {"chunk": ">= 1"}
    checks = ({"chunk": 8}, {"chunk": 1})

    def __init__(self, slot: Any, *, chunk: int = 64) -> None:
        super().__init__(slot)
        self.chunk = chunk
        self.mix, self.projections, self.log_rate, self.bonus = time_mixing(slot)

    def attend(
        self, q: None, k: None, v: None, key_mask: Maybe = None, query_mask: Maybe = None, *, y: Tensor
    ) -> Tensor:
        """Carry the sums over the tokens."""
        return self.step(self.init_state(None, None, y=y), None, key_mask=key_mask, y=y)[0]

    def reference(self, q: None, k: None, v: None, *, y: Tensor) -> Tensor:
        """Write the weight of every pair."""
        before = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1)
        mixed = (share * y + (1 - share) * before for share in self.mix)
        r, k, v = (t @ each.weight.T for t, each in zip(mixed, self.projections, strict=True))
        rate, bonus = self.log_rate.flatten().exp(), self.bonus.flatten()
        place = torch.arange(y.shape[1], device=y.device)
        distance = (place[:, None] - place - 1)[..., None]  # of i and j: (i, j, 1)
        exponent = torch.where(distance < 0, bonus, -rate * distance) + k.unsqueeze(1)
        weights = exponent.masked_fill(distance < -1, -torch.inf).softmax(2)  # (1, i, j, channels)
        out = torch.sigmoid(r) * (weights * v.unsqueeze(1)).sum(2)
        return out.unflatten(2, (self.slot.heads, -1)).transpose(1, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the three projections."""
        return 2.0 * n * sum(each.weight.numel() for each in self.projections)

    def init_state(self, k: None, v: None, key_mask: Maybe = None, *, y: Tensor) -> Any:
        """Return zeros before the first token, and empty sums."""
        like = y.new_zeros(y.shape[0], self.slot.heads, 0, self.slot.values, dtype=at_least_float32(y))
        return y.new_zeros(y.shape[0], 1, y.shape[2]), empty_wkv(like)

    def step(
        self, state: Any, q: None, k: None = None, v: None = None, key_mask: Maybe = None, *, y: Tensor
    ) -> tuple[Tensor, Any]:
        """Carry the sums over the new tokens."""
        last, sums = state
        before, last = token_shift(y, last, key_mask)
        r, k, v = mixed_maps(y, before, self.mix, self.projections, self.slot.heads)
        dtype = sums.dtype
        keys, rate = k.to(dtype), self.log_rate.to(dtype).exp().expand_as(k)
        if key_mask is not None:
            masked = ~key_mask[:, None, :, None]
            keys, rate = keys.masked_fill(masked, FLOOR), rate.masked_fill(masked, 0.0)
        with full_precision(y.device.type):
            out, sums = wkv(keys, v.to(dtype), rate, self.bonus.to(dtype), sums, self.chunk)
        return (out * r.sigmoid()).to(r.dtype), (last, sums)
