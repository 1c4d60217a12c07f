"""Varying window attention (Yan et al., arXiv 2404.16573): windows of queries read contexts that are wider than they.

The raster is cut into `windows` windows along each axis, P places long. With R = `ratio`, a window of queries reads a
context of R P places along each axis, its own window in the middle, at the cost of P (section 3 of the paper):

1. A convolution of R places along each axis takes the source's D channels y to D / R^axes; a norm and a ReLU follow.
2. Of a context that crosses an end, the places beyond are taken from the other side: it is the first R P places of the
   axis, or the last, in cyclic order. On a shorter axis there are no such places, and they are masked.
3. R^axes neighbouring places of a context are one token of D channels, so that it has P^axes tokens c.
4. The output is softmax(q (W_k c)^T / sqrt(dim)) W_v c.

- NS: native on images; sequences are ours. The side of a sequence is the slot's.
- NC, CC (ours): a query stands at a place of the source, in proportion to the sides of both rasters, and reads the
  context of its window. It needs no other query.
- CS: refused, because a token of a context holds neighbours on both sides.

The authors' batch norm is a layer norm over channels. They put the outputs of several ratios side by side. A hidden
place is zero; a token without a place that is there is left out.
"""

from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Unsupported
from cab.ops.channels import heads_of
from cab.ops.raster_windows import AlignedWindows
from cab.ops.softmax import explicit_attention

Maybe = Tensor | None


class Vwa(Mechanism):
    """Every query weighs a context wider than its window, of as many tokens."""

    patterns = {"NS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"axes": (1,)},)
    refuses = {"CS": "a token of a context holds later tokens"}
    paper = "arXiv 2404.16573"
    cost = "O(n m d / s + n D^2)"  # s windows, whose number does not grow with the raster
    titles = ("Multi-Scale Representations by Varying Window Attention for Semantic Segmentation",)
    reads = "q"
    inputs = {"y": ("keys", "real", "width")}
    rasters = (1, 2)
    accepts = {"windows": ">= 1", "ratio": ">= 1"}
    checks = ({"windows": 4}, {"windows": 3, "ratio": 1})

    def __init__(self, slot: Any, *, windows: int = 8, ratio: int = 2) -> None:
        super().__init__(slot)
        self.source, self.ratio = slot.source_sides, ratio
        axes, channels = len(self.source), slot.tokens // ratio ** len(self.source)
        if slot.tokens % ratio**axes:
            raise Unsupported(f"ratio={ratio}: its power of {axes} does not divide the width {slot.tokens}")
        self.size = tuple(-(-side // windows) for side in self.source)
        self.windows = AlignedWindows(slot, self.size)
        self.conv = None
        if ratio > 1:
            self.conv = (nn.Conv1d, nn.Conv2d)[axes - 1](slot.tokens, channels, ratio)
            self.norm = nn.LayerNorm(channels)
        self.of_keys = nn.Linear(slot.tokens, slot.heads * slot.dim)
        self.of_values = nn.Linear(slot.tokens, slot.heads * slot.values)

    def attend(
        self, q: Tensor, k: None, v: None, key_mask: Maybe = None, query_mask: Maybe = None, *, y: Tensor
    ) -> Tensor:
        """Make the contexts of all windows, and attend in all of them at once."""
        m = prod(self.source)  # of a sequence, the slot's
        real = torch.ones(y.shape[:2], dtype=torch.bool, device=y.device) if key_mask is None else key_mask
        missing = m - y.shape[1]
        y = torch.cat([y.masked_fill(~real.unsqueeze(2), 0.0), y.new_zeros(len(y), missing, y.shape[2])], 1)
        real = torch.cat([real, real.new_zeros(len(y), missing)], 1).unsqueeze(2)
        context, seen = self._contexts(self._map(y).masked_fill(~real, 0.0)), self._contexts(real).any(3)
        k, v = (
            torch.unflatten(heads_of(linear(context.flatten(1, 2)), self.slot.heads), 2, context.shape[1:3])
            for linear in self._maps()
        )
        out = explicit_attention(self.windows.cut_queries(q, m), k, v, seen[:, None, :, None])
        return self.windows.join_queries(out, q.shape[2], m)[:, :, : q.shape[2]]

    def _map(self, y: Tensor) -> Tensor:
        """Convolve, norm and rectify the source: (batch, m, channels)."""
        if self.conv is None:
            return y
        channels = torch.unflatten(y.transpose(1, 2), 2, self.source)
        channels = F.pad(channels, ((self.ratio - 1) // 2, self.ratio // 2) * len(self.source))
        out: Tensor = F.relu(self.norm(self.conv(channels).flatten(2).transpose(1, 2)))
        return out

    def _contexts(self, t: Tensor) -> Tensor:
        """Cut t (batch, m, size), zero or False where hidden, into (batch, windows, tokens, ratio^axes size)."""
        batch, axes, ratio = len(t), len(self.source), self.ratio
        t = torch.unflatten(t, 1, self.source)
        for axis, index in enumerate(self._indices(t.device), 1):  # places beyond the raster are zero
            t = torch.cat([t, t.new_zeros(*t.shape[:axis], 1, *t.shape[axis + 1 :])], axis)
            t = t.index_select(axis, index.flatten())
        for axis, size in enumerate(self.size):
            t = torch.unflatten(t, 1 + 3 * axis, (-1, size, ratio))
        order = [1 + 3 * axis + part for part in range(3) for axis in range(axes)]
        return t.permute(0, *order, -1).reshape(batch, -1, prod(self.size), ratio**axes * t.shape[-1])

    def _indices(self, device: torch.device) -> list[Tensor]:
        """Return the places of each window's context along each axis, the side for none: (windows, ratio size)."""
        indices = []
        for side, size in zip(self.source, self.size, strict=True):
            count, wide = -(-side // size), self.ratio * size
            place = torch.arange(count, device=device)[:, None] * size - (wide - size) // 2
            place = place + torch.arange(wide, device=device)
            place = torch.where(place < 0, place + wide, torch.where(place < count * size, place, place - wide))
            indices.append(torch.where((place >= 0) & (place < side), place, side))
        return indices

    def reference(
        self, q: Tensor, k: None, v: None, key_mask: Maybe = None, query_mask: Maybe = None, *, y: Tensor
    ) -> Tensor:
        """Make one context after the other, token by token."""
        raster = torch.zeros(*self.source, y.shape[2], dtype=y.dtype, device=y.device)
        real = torch.zeros(self.source, dtype=torch.bool, device=y.device)
        real.view(-1)[: y.shape[1]] = True if key_mask is None else key_mask[0]
        raster.view(-1, y.shape[2])[: y.shape[1]] = y[0]
        raster = raster * real.unsqueeze(-1)
        if self.conv is not None:
            total, taps = self.conv.bias, list(product(range(self.ratio), repeat=len(self.source)))
            left = (self.ratio - 1) // 2
            padded = F.pad(raster, (0, 0, *(left, self.ratio // 2) * len(self.source)))
            for tap in taps:
                moved = padded[*(slice(at, at + side) for at, side in zip(tap, self.source, strict=True))]
                total = total + moved @ self.conv.weight[:, :, *tap].T
            raster = self.norm(total).clamp(min=0) * real.unsqueeze(-1)
        of_query = self.windows.numbers(q.shape[2], prod(self.source), q.device)[0]

        def place_of(axis: int, window: int, offset: int) -> int:
            """Return the place at an offset in a window's context along an axis; there may be none of that number."""
            side, size, wide = self.source[axis], self.size[axis], self.ratio * self.size[axis]
            start = window * size - (wide - size) // 2
            first = 0 if start < 0 else min(start, -(-side // size) * size - wide)  # of the places that it holds
            return first + (start + offset - first) % wide

        out = q.new_zeros(*q.shape[:3], self.slot.values)
        counts = (-(-side // size) for side, size in zip(self.source, self.size, strict=True))
        for number, box in enumerate(product(*map(range, counts))):
            tokens, seen = [], []
            for token in product(*map(range, self.size)):
                parts = []
                for part in product(range(self.ratio), repeat=len(box)):
                    along = enumerate(zip(box, token, part, strict=True))
                    place = tuple(place_of(axis, w, p * self.ratio + r) for axis, (w, p, r) in along)
                    inside = all(0 <= at < side for at, side in zip(place, self.source, strict=True))
                    parts.append(
                        (raster[place], real[place]) if inside else (0 * raster.flatten(0, -2)[0], real.new_zeros(()))
                    )
                tokens.append(torch.cat([features for features, _ in parts]))
                seen.append(torch.stack([there for _, there in parts]).any())
            if not torch.stack(seen).any():
                continue
            context = torch.stack(tokens)[torch.stack(seen)]
            k, v = (linear(context).unflatten(1, (self.slot.heads, -1)).transpose(0, 1) for linear in self._maps())
            rows = of_query == number
            out[:, :, rows] = (q[:, :, rows] @ k.mT / self.slot.dim**0.5).softmax(-1) @ v
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The convolution, keys and values of all contexts, and two products over the pairs of each window."""
        windows, slot = self.windows.of_keys(prod(self.source)), self.slot
        keys = windows.count * prod(self.size)
        conv = 0 if self.conv is None else prod(self.source) * self.conv.weight.numel()
        own = keys * slot.tokens * slot.heads * (slot.dim + slot.values)
        pairs = keys * prod(self.size) * prod(self.windows.rates)
        return 2.0 * (conv + own + slot.heads * pairs * (slot.dim + slot.values))

    def _maps(self) -> tuple[nn.Linear, nn.Linear]:
        return self.of_keys, self.of_values
