"""Vision-RWKV's spatial mixing (Duan et al., arXiv 2403.02308; in RWKV-SAM, arXiv 2406.19369): averages that fade.

With y'_t = the channels of the neighbours of a token, and mu, w and u learned for each channel,

    r, k, v = W (mu y_t + (1 - mu) y'_t), each with a mu and a W of its own
    wkv_t = (sum over j != t of exp(k_j - (|t - j| - 1) w / T) v_j + exp(u / T + k_t) v_t) / (the sum of the weights)
    out_t = sigmoid(r_t) * wkv_t

y' takes a quarter of its channels from each of the four neighbours (Q-Shift), or as many parts as a raster of another
number of axes has neighbours; zeros stand beyond its ends. Distances are those of raster order. T is the number of
tokens of the slot, so that w does not change its meaning with the length. The channels are heads * value_dim, and the
output projection is the layer's. mu and u begin as RWKV-4's do, and w as what is the logarithm of w there: so many
channels begin with weights that grow with the distance.

It is of NS alone. A masked place has no weight, and counts as zero for its neighbours.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.time_mixing import mixed_maps, time_mixing
from cab.ops.wkv import FLOOR, bi_wkv

Maybe = Tensor | None


class VisionRwkv(Mechanism):
    """Every channel averages its values under weights that fade to both sides, and is gated."""

    patterns = {"NS": "native"}
    ours = ({"axes": (1, 3)},)
    refuses = {
        "CS": "its causal form is another mechanism, rwkv4",
        "NC": "it has no queries: each output stands where its input stands",
        "CC": "it has no queries: each output stands where its input stands",
    }
    paper = "arXiv 2403.02308"
    titles = ("Mamba or RWKV: Exploring High-Quality and High-Efficiency Segment Anything Model",)
    cost = "O(n d)"
    reads = ""
    inputs = {"y": ("keys", "real", "width")}
    rasters = (1, 2, 3)
    accepts = {"chunk": ">= 1"}
    checks = ({"chunk": 8}, {"chunk": 1})

    def __init__(self, slot: Any, *, chunk: int = 64) -> None:
        super().__init__(slot)
        self.chunk = chunk
        self.mix, self.projections, self.rate, self.bonus = time_mixing(slot)

    def attend(
        self, q: None, k: None, v: None, key_mask: Maybe = None, query_mask: Maybe = None, *, y: Tensor
    ) -> Tensor:
        """Carry the sums over the tokens in both directions."""
        assert key_mask is not None  # always given where q is not read
        shifted = q_shift(y.masked_fill(~key_mask.unsqueeze(2), 0.0), self.slot.raster or y.shape[1:2])
        r, k, v = mixed_maps(y, shifted, self.mix, self.projections, self.slot.heads)
        dtype, tokens = at_least_float32(k), self.slot.max_len
        keys = k.to(dtype).masked_fill(~key_mask[:, None, :, None], FLOOR)
        rate, bonus = (t.to(dtype) / tokens for t in (self.rate, self.bonus))
        with full_precision(y.device.type):
            out = bi_wkv(keys, v.to(dtype), rate.expand_as(k), bonus, self.chunk)
        return (out * r.sigmoid()).to(r.dtype)

    def reference(
        self, q: None, k: None, v: None, key_mask: Maybe = None, query_mask: Maybe = None, *, y: Tensor
    ) -> Tensor:
        """Write the weight of every pair."""
        n, raster = y.shape[1], self.slot.raster or y.shape[1:2]
        real = torch.ones_like(y[:, :, 0], dtype=torch.bool) if key_mask is None else key_mask
        framed = F.pad((y * real.unsqueeze(2)).unflatten(1, raster), (0, 0, *[1, 1] * len(raster)))
        parts = []
        for number, part in enumerate(framed.tensor_split(2 * len(raster), -1)):
            for axis, side in enumerate(raster):
                start = 1 if axis != number // 2 else 2 * (number % 2)  # 0 and 2: the places before and after
                part = part.narrow(axis + 1, start, side)
            parts.append(part)
        before = torch.cat(parts, -1).flatten(1, -2)
        mixed = (share * y + (1 - share) * before for share in self.mix)
        r, k, v = (t @ each.weight.T for t, each in zip(mixed, self.projections, strict=True))
        rate, bonus = self.rate.flatten() / self.slot.max_len, self.bonus.flatten() / self.slot.max_len
        place = torch.arange(n, device=y.device)
        distance = (place[:, None] - place).abs().unsqueeze(2)
        exponent = torch.where(distance == 0, bonus, -rate * (distance - 1)) + k.unsqueeze(1)
        weights = exponent.masked_fill(~real[:, None, :, None], -1e30).softmax(2)  # (1, i, j, channels)
        out = torch.sigmoid(r) * (weights * v.unsqueeze(1)).sum(2)
        return out.unflatten(2, (self.slot.heads, -1)).transpose(1, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the three projections."""
        return 2.0 * n * sum(each.weight.numel() for each in self.projections)


def q_shift(y: Tensor, raster: Sequence[int]) -> Tensor:
    """Return, for tokens (batch, n, width) of a raster, the next parts of the channels from one neighbour each."""
    parts = []
    for number, part in enumerate(torch.tensor_split(torch.unflatten(y, 1, raster), 2 * len(raster), -1)):
        axis, side = number // 2 + 1, raster[number // 2]
        beyond, rest = torch.zeros_like(part.narrow(axis, 0, 1)), part.narrow(axis, number % 2, side - 1)
        parts.append(torch.cat([rest, beyond] if number % 2 else [beyond, rest], axis))
    return torch.cat(parts, -1).flatten(1, -2)
