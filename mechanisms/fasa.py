"""Factorization self-attention, FaViT's (arXiv 2312.08614): groups of channels read windows at several dilations.

The C = heads dim channels are split: 2/16 are global, 7/16 are of dilation 1 and 7/16 of dilation r = `reduction`, or
1/8 and 7/8 where r = 1. With L = `window`, from the values v of the same channels (section 3.2 of the paper):

- global, one head: keys and values are W norm(conv(v)), of boxes of r places along each axis.
- dilation e: v passes a depth-wise convolution of 3 places and a linear map. The raster is cut into windows of
  e (L - 1) + 1 places along each axis, and of each window every e-th place is taken, L along each axis. Their mean over
  all windows is L^axes tokens, from which each head makes keys and values by two linear maps.

To the values of each part their depth-wise convolution of 3 places is added, over boxes or over the L^axes tokens.
Every query attends in each part by softmax; the parts stand side by side in the output.

- NS: native on images; sequences are ours.
- NC, CC (ours): all that is pooled comes from the source, and a query needs no other one.
- CS: refused, because every token that is read is a mean over the whole raster.

The authors make keys and values from the layer's input. Here it is the layer's values, which are that input where the
projection is the identity. Windows that cross an end hold fewer tokens, where the authors reflect the image; their code
averages across channels, their paper over windows, as is done here. Masked tokens are in no mean.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Unsupported
from cab.ops.channels import channels_of, heads_of
from cab.ops.raster_convolution import RasterConvolution
from cab.ops.raster_places import places
from cab.ops.raster_windows import RasterWindows, window_means
from cab.ops.softmax import masked_softmax, softmax_attention

Maybe = Tensor | None


class Group(nn.Module):
    """What makes the keys and values of the channels of one dilation."""

    def __init__(self, heads: int, size: int, axes: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.first, self.last = nn.Linear(size, size), nn.Linear(size, 2 * size)
        self.conv = RasterConvolution(heads, size, 3, axes)


class Fasa(Mechanism):
    """Every query weighs means of windows, at one dilation for each group of channels."""

    patterns = {"NS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"axes": (1,)},)
    refuses = {"CS": "every token that is read is a mean over the whole raster"}
    paper = "arXiv 2312.08614"
    cost = "O(n (n / r^2 + w) D)"
    titles = ("Factorization Vision Transformer: Modeling Long Range Dependency with Local Window Cost",)
    reads = "qv"
    rasters = (1, 2)
    accepts = {"reduction": ">= 1", "window": ">= 1"}
    checks = ({"window": 3, "reduction": 2}, {"window": 4, "reduction": 1})
    exempt = {"heads": "the channels of all heads are split into groups that cross heads"}

    def __init__(self, slot: Any, *, reduction: int = 4, window: int = 7) -> None:
        super().__init__(slot)
        shares = (2, 7, 7) if reduction > 1 else (1, 7)
        if slot.dim % sum(shares) or slot.values != slot.dim:
            raise Unsupported(
                f"FaSA needs heads of a size that {sum(shares)} divides, and values of that size "
                f"(dim={slot.dim}, value_dim={slot.values})"
            )
        self.source, self.reduction, self.window = slot.source_sides, reduction, window
        axes, part = len(self.source), slot.heads * slot.dim // sum(shares)
        self.sizes = [share * part for share in shares]  # channels of the global part and of each group
        of_all, local = self.sizes[0], sum(self.sizes[1:])
        self.reduce = (nn.Conv1d, nn.Conv2d)[axes - 1](of_all, of_all, reduction, reduction)
        self.norm, self.pair = nn.LayerNorm(of_all), nn.Linear(of_all, 2 * of_all)
        self.conv = RasterConvolution(1, of_all, 3, axes)
        self.neighbours, self.mix = RasterConvolution(1, local, 3, axes), nn.Linear(local, local)
        self.groups = nn.ModuleList(
            Group(slot.heads, size // slot.heads, axes, dilation)
            for size, dilation in zip(self.sizes[1:], (1, reduction), strict=False)
        )

    def attend(self, q: Tensor, k: None, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Pool the source, and let every query read all of it."""
        return self.step(self.init_state(k, v, key_mask), q)[0]

    def init_state(self, k: None, v: Tensor, key_mask: Maybe = None) -> Any:
        """Return keys, values, and which of them there are, of each part: (batch, heads, tokens, size)."""
        raster, axes = self._raster(v.shape[2]), len(self.source)
        if missing := prod(raster) - v.shape[2]:  # of a raster, while streaming
            real = v.new_ones(len(v), v.shape[2], dtype=torch.bool) if key_mask is None else key_mask
            v, key_mask = F.pad(v, (0, 0, 0, missing)), F.pad(real, (0, missing), value=False)
        tokens = channels_of(v).unsqueeze(1)
        if key_mask is not None:
            tokens = tokens.masked_fill(~key_mask[:, None, :, None], 0.0)
        of_all, local = tokens.split([self.sizes[0], sum(self.sizes[1:])], 3)
        boxes = RasterWindows(raster, (self.reduction,) * axes, (0,) * axes)
        seen = boxes.cut_mask(key_mask, v).any(3)[:, 0]
        taps = boxes.cut(of_all).squeeze(1).transpose(2, 3).flatten(2)  # (batch, boxes, channels places)
        hidden = F.linear(taps, self.reduce.weight.flatten(1), self.reduce.bias)
        keys, values = self.pair(self.norm(hidden)).unsqueeze(1).chunk(2, 3)
        counts = tuple(-(-side // self.reduction) for side in raster)
        state = [(keys, values + self.conv(values, counts, seen), seen[:, None, None])]
        local = self.mix(self.neighbours(local, raster, key_mask))
        for group, part in zip(self.groups, local.split(self.sizes[1:], 3), strict=True):
            stride = group.dilation * (self.window - 1) + 1
            windows = RasterWindows(raster, (stride,) * axes, (0,) * axes)
            step = torch.tensor([stride ** (axes - 1 - axis) for axis in range(axes)], device=v.device)
            taken = (places((self.window,) * axes, v.device) * group.dilation * step).sum(1)  # in a window
            members = windows.cut(part).index_select(3, taken).transpose(2, 3)
            real = windows.cut_mask(key_mask, v).index_select(3, taken).transpose(2, 3)
            mean, seen = window_means(members, real).to(v.dtype).squeeze(1), real.any(3)[:, 0]
            pairs = group.last(group.first(heads_of(mean, self.slot.heads)))
            keys, values = pairs.chunk(2, 3)
            values = values + group.conv(values, (self.window,) * axes, seen)
            state.append((keys, values, seen[:, None, None]))
        return tuple(state)

    def step(
        self, state: Any, q: Tensor, k: None = None, v: Maybe = None, key_mask: Maybe = None
    ) -> tuple[Tensor, Any]:
        """Read each part with its own channels of the queries."""
        parts = zip(self._queries(q), state, strict=True)
        out = torch.cat([channels_of(softmax_attention(own, *part)) for own, part in parts], 2)
        return heads_of(out, self.slot.heads), state

    def reference(self, q: Tensor, k: None, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Pool place by place, and write every weight."""
        raster, axes = self._raster(v.shape[2]), len(self.source)
        key, heads = places(raster, v.device), self.slot.heads
        real = torch.ones(len(key), dtype=torch.bool, device=v.device) if key_mask is None else key_mask[0]
        if not real.any():
            return q.new_zeros(q.shape)
        tokens = channels_of(v)[0] * real[:, None]

        def number(place: Tensor, sides: tuple[int, ...]) -> Tensor:
            index = torch.zeros_like(place[:, 0])
            for axis, side in enumerate(sides):
                index = index * side + place[:, axis]
            return index

        counts = tuple(-(-side // self.reduction) for side in raster)
        box, tap = number(key // self.reduction, counts), number(key % self.reduction, (self.reduction,) * axes)
        kernel = self.reduce.weight.flatten(2)[:, :, tap]
        pooled = torch.einsum("mc,ocm->mo", tokens[:, : self.sizes[0]], kernel)
        hidden = self.reduce.bias + torch.zeros(prod(counts), len(kernel), dtype=v.dtype).index_add(0, box, pooled)
        keys, values = self.pair(self.norm(hidden)).chunk(2, 1)
        seen = torch.isin(torch.arange(prod(counts)), box[real])
        values = values + self.conv.definition(values[None, None], counts, seen[None])[0, 0]
        parts = [(keys[None], values[None], seen)]
        local = self.neighbours.definition(tokens[None, None, :, self.sizes[0] :], raster, real[None])[0, 0]
        for group, part in zip(self.groups, self.mix(local).split(self.sizes[1:], 1), strict=True):
            at = key % (group.dilation * (self.window - 1) + 1)
            slot = number(at // group.dilation, (self.window,) * axes)
            taken = real & (at % group.dilation == 0).all(1)
            member = (torch.arange(self.window**axes)[:, None] == slot) & taken
            mean = member.to(v.dtype) @ part / member.sum(1, keepdim=True).clamp(min=1)
            pairs = group.last(group.first(mean.unflatten(1, (heads, -1)).transpose(0, 1)))
            keys, values = pairs.chunk(2, 2)
            values = values + group.conv.definition(values[None], (self.window,) * axes, member.any(1)[None])[0]
            parts.append((keys, values, member.any(1)))
        outs = []
        for own, (keys, values, seen) in zip(self._queries(q), parts, strict=True):
            scores = own[0] @ keys.mT / keys.shape[2] ** 0.5
            outs.append((masked_softmax(scores, seen) @ values).transpose(0, 1).flatten(1))
        return torch.cat(outs, 1).unflatten(1, (heads, -1)).transpose(0, 1).unsqueeze(0)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """All convolutions and linear maps, and two products over the pairs of query and pooled token."""
        raster, of_all = self._raster(m), self.sizes[0]
        boxes, tokens = prod(-(-side // self.reduction) for side in raster), self.window ** len(raster)
        pooling = boxes * (self.reduce.weight.numel() + self.pair.weight.numel() + self.conv.kernel.numel())
        mixing = m * (self.neighbours.kernel.numel() + self.mix.weight.numel())
        total = pooling + mixing + 2 * n * boxes * of_all
        for group, size in zip(self.groups, self.sizes[1:], strict=True):
            maps = self.slot.heads * (group.first.weight.numel() + group.last.weight.numel())
            total += tokens * (maps + group.conv.kernel.numel() + 2 * n * size)
        return 2.0 * total

    def _raster(self, m: int) -> tuple[int, ...]:
        return self.source if len(self.source) > 1 else (m,)

    def _queries(self, q: Tensor) -> list[Tensor]:
        """Return the queries of each part: of the groups, a part of the channels of each head."""
        of_all, local = channels_of(q).split([self.sizes[0], sum(self.sizes[1:])], 2)
        of_groups = heads_of(local, self.slot.heads).split([size // self.slot.heads for size in self.sizes[1:]], 3)
        return [of_all.unsqueeze(1), *of_groups]
