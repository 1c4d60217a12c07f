"""Neighborhood attention (Hassani et al., arXiv 2204.07143, equation 2): every query weighs the keys around its place.

    y_i = sum_j softmax_j(q_i k_j / sqrt(dim) + B(j - i)) v_j,   j in the neighborhood of i

Along each axis the neighborhood is `window` keys, i in their middle; near an end it is shifted, so that there are as
many. With `dilation` (arXiv 2209.15001) the keys lie that far apart: places with equal remainders by `dilation` are a
raster of their own. An axis that has fewer such places is seen whole. `bias` adds the learned number B of an offset.
The fused kernels of arXiv 2403.04690, which has no bias, are the backend `natten`.

- NS: native on sequences, images and volumes.
- CS: native. Along each axis the neighborhood is the place itself and the `window` - 1 before it.
- NC, CC (ours): a query stands at a place of the source, in proportion to the sides of both rasters, and sees the
  neighborhood of that place. It needs no other query.

The eager computation lays out the keys so that those with equal remainders are neighbours, cuts them into tiles, and
lets the queries of a tile attend to the keys of the tile and around it.
"""

from importlib.util import find_spec
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern, Unsupported
from cab.ops import kernels
from cab.ops.cache import next_positions
from cab.ops.neighborhoods import Axis, axes_of, laid_out, seen_in_tiles, within
from cab.ops.precision import at_least_float32
from cab.ops.ragged import gather_tokens, real_first
from cab.ops.raster_places import aligned_positions, centres, places
from cab.ops.raster_windows import RasterWindows
from cab.ops.relative_bias import biased_attention
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax, repeat_heads


class Neighborhood(Mechanism):
    """Every query attends to the keys that are nearest to it."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2204.07143"
    parity = "natten (na1d, na2d, na3d)"
    cost = "O(n w d)"
    titles = (
        "Dilated Neighborhood Attention Transformer",
        "Faster Neighborhood Attention: Reducing the O(n^2) Cost of Self Attention at the Threadblock Level",
    )
    rasters = (1, 2, 3)
    grouped = True
    accepts = {"window": ">= 1", "dilation": ">= 1"}
    checks = ({"window": 4, "dilation": 3}, {"window": 5, "dilation": 2, "bias": True})
    limits = (
        {"params": {"window": 1000}, "equals": "softmax", "patterns": ["NS", "NC", "CC"]},
        {"params": {"window": 1000, "bias": True}, "weights": {"table": 0.0}, "equals": "softmax", "patterns": ["NS"]},
    )

    position: Tensor

    def __init__(self, slot: Any, *, window: int = 7, dilation: int = 1, bias: bool = False) -> None:
        super().__init__(slot)
        self.raster, self.source = slot.sides, slot.source_sides
        self.window, self.dilation, self.causal = window, dilation, slot.pattern is Pattern.CS
        position, self.rates = aligned_positions(self.raster, self.source)
        self.register_buffer("position", position if slot.pattern.cross else None, persistent=False)
        self.table = None
        if bias:
            self.reach = tuple(min(window, side) - 1 for side in self.source)  # the largest offset
            sides = [reach + 1 if self.causal else 2 * reach + 1 for reach in self.reach]
            self.table = nn.Parameter(torch.empty(slot.heads, prod(sides)))
            nn.init.trunc_normal_(self.table, std=0.02)

    def use(self, backend: str) -> Mechanism:
        """Refuse what a backend's kernels do not compute."""
        reason = ""
        if backend in ("sdpa", "flex", "natten") and self.table is not None:
            reason = "the learned bias of offsets is computed by eager and compile alone"
        elif backend == "flex":
            reason = kernels.flex_refusal(self.slot)
        elif backend == "natten":
            reason = self._natten_refusal()
        if reason:
            raise Unsupported(reason)
        return super().use(backend)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Attend in all tiles at once."""
        bias = None if self.table is None else self._bias(k.shape[2], k.device)
        return self._in_tiles(explicit_attention if bias is None else biased_attention(bias), q, k, v, key_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the tiles with PyTorch's fused kernels."""
        return self._in_tiles(fused_attention, q, k, v, key_mask)

    def attend_flex(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the blocks of the whole matrix that hold a neighborhood with PyTorch's flex_attention."""
        attention, create_block_mask = kernels.flex(q.device.type)
        n, m = q.shape[2], k.shape[2]
        query, key = self._places(n, m, q.device)
        sides = self._sides(m, key_mask, q.device)

        def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            near = self._near(query[i], key[j], sides[b if len(sides) > 1 else 0])
            return near if key_mask is None else near & key_mask[b, j]

        block_mask = create_block_mask(seen, None if key_mask is None else len(q), None, n, m, device=q.device)
        out: Tensor = attention(q, k, v, block_mask=block_mask, enable_gqa=k.shape[1] != q.shape[1])
        return out

    def attend_natten(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute with the kernels of the package natten, which know no masked tokens."""
        import natten

        if key_mask is not None and not key_mask.all():
            raise Unsupported("natten's kernels know no masked tokens; use flex, sdpa or eager")
        raster = self._key_raster(k.shape[2])
        if self.window * self.dilation > min(raster):
            raise Unsupported(f"natten needs window dilation ({self.window * self.dilation}) places on each axis")
        q, k, v = (torch.unflatten(repeat_heads(t, self.slot.heads).transpose(1, 2), 1, raster) for t in (q, k, v))
        compute = (natten.na1d, natten.na2d, natten.na3d)[len(raster) - 1]
        out: Tensor = compute(q, k, v, self.window, dilation=self.dilation, is_causal=self.causal)
        return out.flatten(1, len(raster)).transpose(1, 2)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write every weight, and keep those of the neighborhood."""
        query, key = self._places(q.shape[2], k.shape[2], q.device)
        sides = torch.tensor(self._key_raster(k.shape[2]), device=q.device)
        seen = self._near(query[:, None], key, sides)
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / self.slot.dim**0.5
        if self.table is not None:
            offset = (key // self.dilation - query[:, None] // self.dilation).masked_fill(~seen.unsqueeze(2), 0)
            offset = offset + torch.tensor(self.reach, device=q.device)
            sizes = [reach + 1 if self.causal else 2 * reach + 1 for reach in self.reach]
            scores = scores + torch.unflatten(self.table, 1, sizes)[:, *offset.unbind(2)]
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        return masked_softmax(scores, seen) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over the pairs of each tile, with what fills it up."""
        pairs = prod(
            axis.tiles * axis.tile * rate * (axis.before + axis.tile + axis.after)
            for axis, rate in zip(self._axes(m), self.rates, strict=True)
        )
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """The pairs that are seen alone."""
        pairs = 1
        raster = self.raster if self.slot.pattern.cross or len(self.raster) > 1 else (n,)
        for queries, side in zip(raster, self._key_raster(m), strict=True):
            place = torch.arange(queries) * side // queries
            count = (side - place % self.dilation - 1) // self.dilation + 1  # places with its remainder
            count = torch.minimum(count, place // self.dilation + 1) if self.causal else count
            pairs *= int(count.clamp(max=self.window).sum())
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    @property
    def streams(self) -> bool:
        """Whether tokens are a sequence: a raster is always there as a whole."""
        return len(self.raster) == 1

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep the source and the number of queries so far (CC), or masked zeros as the last keys (CS)."""
        real = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
        if self.slot.pattern.cross:
            return k, v, real if key_mask is None else key_mask, real.new_zeros(len(real), dtype=torch.long)
        last = (min(self.window, self.slot.max_len) - 1) * self.dilation
        return F.pad(k, (0, 0, last, 0)), F.pad(v, (0, 0, last, 0)), real.new_zeros(len(real), last)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Gather the neighborhood of each new query: of the source (CC), or of the last keys and the new ones (CS)."""
        (n,), (m,), c = self.raster, self.source, q.shape[2]
        keys, values, real, *queries = state
        key = torch.arange(min(self.window, m), device=q.device)
        if k is None or v is None:
            centre = next_positions(((), queries[0]), c, key_mask).unsqueeze(2) * m // n
            count = (m - centre % self.dilation - 1) // self.dilation + 1
            first = torch.minimum(centre // self.dilation - self.window // 2, count - self.window).clamp(min=0)
            offset = first + key - centre // self.dilation
            index = (first + key) * self.dilation + centre % self.dilation  # (batch, c, window)
            seen = (first + key < count) & (index < keys.shape[2])
            out = self._gathered(q, keys, values, index.clamp(max=keys.shape[2] - 1), real, seen, offset)
            return out, (*state[:3], queries[0] + (c if key_mask is None else key_mask.sum(1)))
        new, order, inverse = real.new_ones(len(real), c), None, None
        if key_mask is not None:
            order, inverse = real_first(key_mask)
            q, k, v, new = *(gather_tokens(t, order) for t in (q, k, v)), key_mask.gather(1, order)
        last = real.shape[1]
        keys, values, real = torch.cat([keys, k], 2), torch.cat([values, v], 2), torch.cat([real, new], 1)
        offset = (key - (len(key) - 1)).expand(len(q), c, -1)
        index = torch.arange(c, device=q.device)[:, None] + last + offset * self.dilation
        out = self._gathered(q, keys, values, index, real, torch.ones_like(index, dtype=torch.bool), offset)
        kept = torch.arange(last, device=q.device) + new.sum(1, keepdim=True)
        state = gather_tokens(keys, kept), gather_tokens(values, kept), real.gather(1, kept)
        return out if inverse is None else gather_tokens(out, inverse), state

    def _gathered(
        self, q: Tensor, keys: Tensor, values: Tensor, index: Tensor, real: Tensor, seen: Tensor, offset: Tensor
    ) -> Tensor:
        """Attend to the keys at index (batch, queries, window), `offset` of the queries, that are real and seen."""
        seen = seen & real.gather(1, index.flatten(1)).view(index.shape)
        keys, values = (
            torch.unflatten(gather_tokens(repeat_heads(t, self.slot.heads), index.flatten(1)), 2, index.shape[1:])
            for t in (keys, values)
        )
        scores = (q * self.slot.dim**-0.5).unsqueeze(3) @ keys.transpose(-1, -2)
        if self.table is not None:
            bias = self.table[:, (offset + self.reach[0]).clamp(0, self.table.shape[1] - 1)]
            scores = scores.to(at_least_float32(scores)) + bias.transpose(0, 1).unsqueeze(3)
        return (masked_softmax(scores, seen[:, None, :, None]).to(values.dtype) @ values).squeeze(3)

    def _in_tiles(self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        m, axes = k.shape[2], self._axes(k.shape[2])
        of_keys = RasterWindows(
            tuple(axis.dilation * axis.length for axis in axes), tuple(axis.tile for axis in axes), (0,) * len(axes)
        )
        of_queries = of_keys.times(self.rates)
        before, after = tuple(axis.before for axis in axes), tuple(axis.after for axis in axes)
        key_place = laid_out(torch.arange(m, device=k.device), (1,) * len(axes), axes)
        query_place = key_place
        if self.slot.pattern.cross:
            query_place = laid_out(self.position[: q.shape[2]], self.rates, axes)
        seen = seen_in_tiles(axes, self.rates, self._sides(m, key_mask, k.device), self.window, self.causal).unsqueeze(
            1
        )
        if key_mask is None and m < prod(self._key_raster(m)):  # what is missing of the slot's sequence is no key
            key_mask = torch.ones(len(k), m, dtype=torch.bool, device=k.device)
        if key_mask is not None:
            real = key_mask.new_zeros(len(key_mask), prod(of_keys.raster)).index_copy(1, key_place, key_mask)
            seen = seen & of_keys.cut_mask(real, k, before, after).unsqueeze(3)
        k, v = (_spread(repeat_heads(t, self.slot.heads), key_place, of_keys) for t in (k, v))
        k, v = (of_keys.cut(t, before, after) for t in (k, v))
        q = of_queries.cut(_spread(q, query_place, of_queries))
        return of_queries.join(attention(q, k, v, seen)).index_select(2, query_place)

    def _key_raster(self, m: int) -> tuple[int, ...]:
        """Return the raster of m keys. A sequence to which queries are aligned is always the slot's."""
        return self.source if self.slot.pattern.cross or len(self.source) > 1 else (m,)

    def _axes(self, m: int) -> list[Axis]:
        """Return how the axes of m keys are laid out."""
        return axes_of(self._key_raster(m), self.window, self.dilation, self.causal)

    def _near(self, query: Tensor, key: Tensor, sides: Tensor) -> Tensor:
        """Whether the keys at places (..., axes) are in the neighborhoods of the queries at places (..., axes)."""
        remainder = query % self.dilation
        numbers = query // self.dilation, key // self.dilation
        near = within(*numbers, remainder, sides, self.dilation, self.window, self.causal)
        return (near & (key % self.dilation == remainder)).all(-1)

    def _sides(self, m: int, key_mask: Tensor | None, device: torch.device) -> Tensor:
        """Return the sides of each sample's keys (1 or batch, axes): a masked tail of a sequence is no part of it."""
        if key_mask is not None and len(self.source) == 1 and self.slot.pattern is Pattern.NS:
            return key_mask.sum(1, keepdim=True)
        return torch.tensor([self._key_raster(m)], device=device)

    def _places(self, n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return where n queries and m keys stand among the keys: (n, axes) and (m, axes)."""
        return centres(self.raster, self.source, device)[:n], places(self.source, device)[:m]

    def _bias(self, m: int, device: torch.device) -> Tensor:
        """Return the bias of the queries of a tile and the keys around it: (heads, queries, keys)."""
        assert self.table is not None
        index = torch.zeros(1, 1, dtype=torch.long, device=device)
        for axis, rate, reach in zip(self._axes(m), self.rates, self.reach, strict=True):
            query = torch.arange(axis.tile * rate, device=device) // rate
            key = torch.arange(axis.before + axis.tile + axis.after, device=device) - axis.before
            last = reach if self.causal else 2 * reach
            offset = (key - query[:, None] + reach).clamp(0, last)
            index = (index[:, None, :, None] * (last + 1) + offset[None, :, None, :]).flatten(2).flatten(0, 1)
        return self.table[:, index]

    def _natten_refusal(self) -> str:
        if self.slot.pattern.cross:
            return "natten's queries and keys have one raster; use sdpa or eager"
        if not torch.cuda.is_available():
            return "natten has no backward on the CPU; use sdpa or eager"
        return "" if find_spec("natten") else "natten is not installed: pip install natten; or use flex, sdpa or eager"


def _spread(t: Tensor, place: Tensor, windows: RasterWindows) -> Tensor:
    """Put the tokens of t (batch, heads, n, size) at their places of the raster that is cut."""
    return t.new_zeros(*t.shape[:2], prod(windows.raster), t.shape[3]).index_copy(2, place, t)
