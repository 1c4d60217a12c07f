"""Spiking window attention, SpikMamba's (Chen et al., arXiv 2410.16746): linear attention of spikes within a frame.

A leaky integrate-and-fire neuron for each channel and each place of a frame runs from frame to frame f:

    u_f = u_f-1 + (norm(W x)_f - u_f-1) / tau,   s_f = [u_f >= 1],   then u_f becomes u_f (1 - s_f)

The gradient of [u >= 1] is that of sigmoid(4 (u - 1)). Let q and k = elu(s) + 1, of one such map of the tokens each:
they are 1 or 2. A token reads its frame:

    y_i = sum_j (R q_i) . (R k_j) v_j / sum_j q_i . k_j + conv(v)_i

R are rotary positions on the axes of a frame, in each head (base 10000). conv is depth-wise, 3 places along each axis.

- NS: native on videos, whose frames are the last two axes. A sequence is cut into frames of `window` tokens (ours); an
  image is one frame.
- CS (ours, on sequences): of its frame, a token reads what comes before it, and conv runs over the last 3 values.
- NC, CC (ours): a query stands at a place of the source, in proportion to the sides of both rasters, and reads the
  frame of that place. Its neuron runs over the queries before it. No value stands at the place of a query, so there is
  no conv.

The authors' batch norm is a layer norm over channels. Their code runs the neuron along the batch, and turns the
channels of all heads as one vector. A masked token leaves its neuron as it was, and is not read.
"""

from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.channels import heads_of
from cab.ops.precision import full_precision, wide_linear, widened
from cab.ops.raster_convolution import RasterConvolution
from cab.ops.raster_places import centres, places
from cab.ops.raster_windows import AlignedWindows

Maybe = Tensor | None
THRESHOLD, SLOPE, BASE = 1.0, 4.0, 10000.0


class SpikingWindow(Mechanism):
    """Binary queries and keys, which remember earlier frames, read the values of their frame."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    ours = ({"axes": (1, 2)},)
    paper = "arXiv 2410.16746"
    parity = "spikingjelly (LIFNode, the neurons)"
    cost = "O(n d^2)"
    titles = ("SpikMamba: When SNN meets Mamba in Event-based Human Action Recognition",)
    reads = "v"
    inputs = {"x": ("queries", "real", "width"), "y": ("keys", "real", "width")}
    rasters = {"NS": (1, 2, 3), "NC": (1, 3), "CC": (1, 3)}
    accepts = {"window": ">= 1", "tau": ">= 1"}
    checks = ({"window": 4}, {"window": 7, "tau": 1.5})

    def __init__(self, slot: Any, *, window: int = 64, tau: float = 2.0) -> None:
        super().__init__(slot)
        self.tau, self.causal = tau, slot.pattern is Pattern.CS
        source, target = slot.source_sides, slot.sides
        frame = source[-2:] if len(source) > 1 else (min(window, *source),)
        self.windows = AlignedWindows(slot, (*(1 for _ in source[len(frame) :]), *frame))
        # tokens of a frame of the queries and of the keys
        self.sizes = prod(target[-2:]) if len(target) > 1 else min(window, *target), prod(frame)
        self.maps = nn.ModuleList(nn.Linear(slot.tokens, slot.heads * slot.dim) for _ in "qk")
        self.norms = nn.ModuleList(nn.LayerNorm(slot.heads * slot.dim) for _ in "qk")
        self.conv = None
        if not slot.pattern.cross:
            self.conv = RasterConvolution(slot.heads, slot.values, 3, len(frame), self.causal)

    def attend(
        self, q: None, k: None, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, x: Tensor, y: Tensor
    ) -> Tensor:
        """Let the neurons run over the frames, and sum each frame once; in CS, weigh what comes before."""
        n, m = x.shape[1], v.shape[2]
        windows, real = self.windows.of_keys(m), self.windows.of_keys(m).cut_mask(key_mask, v).unsqueeze(4)
        q, k = (
            self.windows.cut_queries(self._features(x, 0, query_mask), m),
            windows.cut(self._features(y, 1, key_mask)),
        )
        own = windows.cut(v).masked_fill(~real, 0.0)
        with full_precision(v.device.type):
            k, values = k.masked_fill(~real, 0.0), widened(own)
            key = places(self.windows.window, v.device)
            query = places(windows.times(self.windows.rates).window, v.device) // torch.tensor(
                self.windows.rates, device=v.device
            )
            turned = self._rotated(q, query), self._rotated(k, key).mT
            if self.causal:
                out, total = (turned[0] @ turned[1]).tril() @ values, (q * k.cumsum(3)).sum(4, keepdim=True)
            else:
                out, total = turned[0] @ (turned[1] @ values), (q * k.sum(3, keepdim=True)).sum(4, keepdim=True)
            out = (out / total.where(total > 0, 1.0)).to(v.dtype)
        if self.conv is not None:
            flat = own.transpose(1, 2).flatten(0, 1)  # each frame is a sample
            near = self.conv(flat, self._frame())
            out = out + torch.unflatten(near, 0, (len(v), -1)).transpose(1, 2).to(out.dtype)
        return self.windows.join_queries(out, n, m)

    def _features(self, tokens: Tensor, which: int, mask: Maybe) -> Tensor:
        """Return elu(s) + 1 of the spikes of queries (0) or keys (1): (batch, heads, length, dim), not in 16 bits."""
        with full_precision(tokens.device.type):
            current, size = self._current(tokens, which), self.sizes[which]
            real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
            missing = -current.shape[1] % size
            current = torch.cat([current, current.new_zeros(len(current), missing, current.shape[2])], 1)
            real = torch.cat([real, real.new_zeros(len(real), missing)], 1).unsqueeze(2)
            spikes = spikes_of(*(torch.unflatten(t, 1, (-1, size)) for t in (current, real)), self.tau)
            return heads_of(1 + spikes.flatten(1, 2)[:, : tokens.shape[1]], self.slot.heads)

    def _current(self, tokens: Tensor, which: int) -> Tensor:
        """Return norm(W x), not rounded to 16 bits: a rounded current fires other neurons."""
        norm, t = self.norms[which], wide_linear(self.maps[which], tokens)
        return nn.functional.layer_norm(t, norm.normalized_shape, widened(norm.weight), widened(norm.bias), norm.eps)

    def _frame(self) -> tuple[int, ...]:
        return self.windows.window[-2:]

    def _rotated(self, t: Tensor, place: Tensor) -> Tensor:
        """Rotate pairs of channels of t (..., tokens, dim) by the tokens' places (tokens, axes); some may be left."""
        place = place[:, -2:]
        pairs = t.shape[-1] // (2 * place.shape[1])  # of each axis
        if not pairs:
            return t
        frequency = BASE ** (-torch.arange(pairs, device=t.device, dtype=t.dtype) / pairs)
        angle = (place.unsqueeze(2) * frequency).flatten(1)
        even, odd = t[..., 0 : 2 * angle.shape[1] : 2], t[..., 1 : 2 * angle.shape[1] : 2]
        turned = torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1)
        return torch.cat([turned.flatten(-2), t[..., 2 * angle.shape[1] :]], -1)

    def reference(
        self, q: None, k: None, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, x: Tensor, y: Tensor
    ) -> Tensor:
        """Let the neurons run one token after the other, and write every weight."""
        (n, m), features = (x.shape[1], v.shape[2]), []
        for which, (tokens, mask) in enumerate(((x, query_mask), (y, key_mask))):
            current, size, spikes = self._current(tokens, which)[0], self.sizes[which], []
            potential = [torch.zeros_like(current[0])] * size
            for i, own in enumerate(current):
                risen = potential[i % size] + (own - potential[i % size]) / self.tau
                spikes.append(fired(risen))
                if mask is None or mask[0, i]:
                    potential[i % size] = risen * (1 - spikes[-1])
            features.append(torch.nn.functional.elu(torch.stack(spikes)) + 1)
        q, k = (t.unflatten(1, (self.slot.heads, -1)).transpose(0, 1) for t in features)
        of_query, of_key = self.windows.numbers(n, m, v.device)
        seen = of_query[:, None] == of_key
        seen = seen if key_mask is None else seen & key_mask[0]
        seen = seen.tril() if self.causal else seen
        window = torch.tensor(self.windows.window, device=v.device)
        query, key = (
            place % window
            for place in (
                centres(self.windows.raster, self.windows.source, v.device)[:n],
                places(self.windows.source, v.device)[:m],
            )
        )
        axes = min(2, len(window))
        pairs = self.slot.dim // (2 * axes)  # pairs of channels that an axis turns
        weights = q[..., 2 * axes * pairs :] @ k[..., 2 * axes * pairs :].mT
        for axis, pair in product(range(axes), range(pairs)):  # (R q_i) . (R k_j) turns by the distance of i and j
            apart = (query[:, None, axis - axes] - key[:, axis - axes]).to(q.dtype)
            angle = apart * BASE ** (-pair / pairs)
            channel = 2 * (axis * pairs + pair)
            (a, b), (c, d) = ((t[..., channel, None], t[..., channel + 1, None]) for t in (q, k))
            weights = weights + (a @ c.mT + b @ d.mT) * angle.cos() + (a @ d.mT - b @ c.mT) * angle.sin()
        weights = weights * seen
        total = (q @ k.mT * seen).sum(2, keepdim=True)
        out = ((weights / total.where(total > 0, 1.0)) @ widened(v)).to(v.dtype)
        if self.conv is None:
            return out
        windows = self.windows.of_keys(m)
        own = windows.cut(v).masked_fill(~windows.cut_mask(key_mask, v).unsqueeze(4), 0.0)
        near = torch.stack([self.conv.definition(frame, self._frame()) for frame in own.unbind(2)], 2)
        return out + windows.join(near)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Both maps of the tokens, and the sums of each frame and their reading, or in CS the pairs of each frame."""
        slot, windows, size = self.slot, self.windows.of_keys(m), self.sizes[1]
        of_maps = 2.0 * (n + m) * slot.tokens * slot.heads * slot.dim
        of_conv = 0.0 if self.conv is None else windows.count * self.conv.flops(self._frame())
        queries = size * prod(self.windows.rates)
        inside = size * size * (slot.dim + slot.values) if self.causal else (size + queries) * slot.dim * slot.values
        return of_maps + of_conv + 2.0 * slot.heads * windows.count * inside


def spikes_of(current: Tensor, real: Tensor, tau: float) -> Tensor:
    """Let neurons run over frames: their spikes, 0 or 1, for currents (batch, frames, ...), where `real`."""
    potential, spikes = torch.zeros_like(current[:, 0]), []
    for own, there in zip(current.unbind(1), real.unbind(1), strict=True):
        risen = potential + (own - potential) / tau
        spikes.append(fired(risen))
        potential = torch.where(there, risen * (1 - spikes[-1]), potential)
    return torch.stack(spikes, 1)


def fired(potential: Tensor) -> Tensor:
    """Return 1 where the potential reaches the threshold, else 0; its gradient is that of a sigmoid."""
    soft = (SLOPE * (potential - THRESHOLD)).sigmoid()
    return (potential >= THRESHOLD).to(soft.dtype) + (soft - soft.detach())
