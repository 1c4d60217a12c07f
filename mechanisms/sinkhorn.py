"""Sparse Sinkhorn attention (Tay et al., arXiv 2002.11296): a block sees itself, and a block sorted to it from afar.

Keys and values are cut into blocks of `block` tokens. A block of queries and one of keys are compared by the means of
their tokens, R = mean q . mean k / sqrt(dim). From (R + noise) / temperature, with Gumbel's noise in training and none
at evaluation, comes a matrix S that sorts keys and values softly: S K and S V. (The paper's sorting network sees one
side and has a table of the blocks of one length; the comparison is that of the package sinkhorn-transformer.)

- NS: S is doubly stochastic, by `iterations` of Sinkhorn's scaling, rows last. Queries see the sorted block and their
  own in one softmax.
- CS: a column's sum holds later rows, so nothing is scaled. As in sinkhorn-transformer, block t picks `picks` blocks
  before it one after another, by a softmax that weighs each, or nothing yet: a learned key and value. It is compared
  by the mean of the queries up to its first token, and a block of keys by the sum of the means up to each of its keys.
- NC: as NS, with no block of its own. CC: a block is compared by the mean of the queries up to its first token, and
  only the rows of S are scaled.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache
from cab.ops.precision import full_precision
from cab.ops.prefix import chunked
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax
from cab.ops.sorting import (
    attend_own_keys,
    block_means,
    continue_prefix_means,
    full_mask,
    gather_weighted,
    gumbel_noise,
    last_marked,
    mask_blocks,
    pick_blocks,
    prefix_means,
    sinkhorn,
)


class Sinkhorn(Mechanism):
    """Blocks of queries see a block of keys that is sorted to them, and their own."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2002.11296"
    cost = "O(n b d + n m d / b)"
    checks = (
        {"block": 4, "iterations": 3, "picks": 2},
        {"block": 7, "iterations": 5, "picks": 1, "temperature": 0.5},
        {"block": 16, "picks": 3},
    )
    limits = ({"params": {"block": 64}, "equals": "softmax", "patterns": ["NS", "NC", "CC"]},)
    exempt = {"modes": "in training Gumbel's noise is added to the scores that sort the blocks"}

    def __init__(
        self, slot: Any, *, block: int = 64, iterations: int = 7, temperature: float = 0.75, picks: int = 2
    ) -> None:
        super().__init__(slot)
        for name, value in (("block", block), ("iterations", iterations), ("picks", picks)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: above 0")
        self.block, self.iterations, self.temperature, self.picks = block, iterations, temperature, picks
        if slot.pattern is Pattern.CS:
            self.no_key = nn.Parameter(torch.randn(slot.heads, 1, slot.dim))
            self.no_value = nn.Parameter(torch.randn(slot.heads, 1, slot.values))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compare blocks, sort keys and values, and attend in blocks."""
        return self._sorted(explicit_attention, q, k, v, key_mask, query_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the blocks with PyTorch's fused kernels."""
        return self._sorted(fused_attention, q, k, v, key_mask, query_mask)

    def _sorted(
        self,
        attention: BlockAttention,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
    ) -> Tensor:
        n = q.shape[2]
        keys = full_mask(k, key_mask)
        own_seen = mask_blocks(keys, self.block)
        if key_mask is not None:
            k, v = (t.masked_fill(~key_mask[:, None, :, None], 0.0) for t in (k, v))
        own_k, own_v = chunked(k, self.block), chunked(v, self.block)
        seen: Tensor | None = None
        if self.slot.pattern is Pattern.CS:
            far_k, far_v, index = self._picked(q, k, own_k, own_v, keys)
            own = torch.ones(self.block, self.block, dtype=torch.bool, device=q.device).tril()
            if key_mask is None:  # the last block alone may be unfilled, and none after it picks it
                seen = torch.cat([own.new_ones(self.block, self.picks * self.block), own], 1)[None, None, None]
            else:
                far = self._picked_real(own_seen, index).unsqueeze(3).expand(-1, -1, -1, self.block, -1)
                own = (own & own_seen.unsqueeze(2))[:, None].expand(*q.shape[:2], -1, -1, -1)
                seen = torch.cat([far, own], 4)
        else:
            sort = self._sorting(q, k, query_mask, key_mask).to(v.dtype)
            far_k, far_v = ((sort @ t.flatten(3)).unflatten(3, (self.block, -1)) for t in (own_k, own_v))
            if key_mask is not None or k.shape[2] % self.block:
                seen = own_seen.any(1)[:, None, None, None, :]  # at a place of the sorted block, if some block has one
                if self.slot.pattern is Pattern.NS:
                    own = own_seen[:, None, :, None, :]
                    seen = torch.cat([seen.expand_as(own), own], 4)
        if not self.slot.pattern.cross:
            far_k, far_v = torch.cat([far_k, own_k], 3), torch.cat([far_v, own_v], 3)
        out = attention(chunked(q, self.block), far_k, far_v, seen)
        return out.flatten(2, 3)[:, :, :n]

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Go through samples, heads and blocks one by one, and write every key that a query sees."""
        out, wide, size = q.new_zeros(*q.shape[:3], v.shape[3]), torch.promote_types(q.dtype, torch.float32), self.block
        causal_self = self.slot.pattern is Pattern.CS
        for b in range(q.shape[0]):
            in_q = range(q.shape[2]) if query_mask is None else query_mask[b].nonzero()[:, 0].tolist()
            in_k = range(k.shape[2]) if key_mask is None else key_mask[b].nonzero()[:, 0].tolist()
            for h in range(self.slot.heads):

                def mean(t: Tensor, index: list[int]) -> Tensor:
                    return t[index].mean(0) if index else torch.zeros_like(t[0])

                of_q, of_k = q[b, h].to(wide), k[b, h].to(wide)
                rows = [[i for i in in_q if i // size == t] for t in range(-(-q.shape[2] // size))]
                columns = [[j for j in in_k if j // size == t] for t in range(-(-k.shape[2] // size))]
                ours = [mean(of_q, row) for row in rows]
                if self.slot.pattern.causal:
                    ours = [mean(of_q, [i for i in in_q if i <= t * size]) for t in range(len(rows))]
                theirs = [mean(of_k, column) for column in columns]
                if causal_self:
                    so_far = {j: mean(of_k, [i for i in in_k if i <= j]) for j in in_k}
                    theirs = [sum((so_far[j] for j in column), torch.zeros_like(of_k[0])) for column in columns]
                scores = torch.stack(ours) @ torch.stack(theirs).T / (self.slot.dim**0.5 * self.temperature)
                sort = None if causal_self else self._plain_sort(scores, rows, columns)
                for t, row in enumerate(rows):
                    far = []
                    if sort is not None:
                        parts = [[(j, sort[t, c].to(v.dtype)) for c, column in enumerate(columns) for j in column]]
                    else:
                        parts = self._plain_picks(scores[t, :t], columns, far, h, v.dtype)
                    for part in parts:
                        for place in range(size):
                            here = [(k[b, h, j] * share, v[b, h, j] * share) for j, share in part if j % size == place]
                            if here:
                                far.append(tuple(torch.stack(one).sum(0) for one in zip(*here, strict=True)))
                    for i in row:
                        own = [] if self.slot.pattern.cross else [j for j in row if j <= i or not causal_self]
                        seen = far + [(k[b, h, j], v[b, h, j]) for j in own]
                        if seen:
                            keys, values = (torch.stack(one) for one in zip(*seen, strict=True))
                            out[b, h, i] = (keys @ q[b, h, i] / self.slot.dim**0.5).softmax(0) @ values
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Comparing blocks, sorting keys and values, and scores and sums in blocks."""
        size, both = self.block, self.slot.dim + self.slot.values
        rows, columns = -(-n // size), -(-m // size)
        sorting, width = rows * columns * size * both, size
        if self.slot.pattern is Pattern.CS:
            sorting, width = 0, (self.picks + 1) * size
        elif self.slot.pattern is Pattern.NS:
            width = 2 * size
        return 2.0 * self.slot.heads * (rows * columns * self.slot.dim + sorting + rows * size * width * both)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep the source in blocks and their means (CC), or what comes and the sums of blocks' means (CS).

        Both keep the sums that means are made of, and the mean that the block at hand is compared by.
        """
        wide = torch.promote_types(k.dtype, torch.float32)
        total = torch.zeros(*k.shape[:2], 1, k.shape[3], dtype=wide, device=k.device)
        if self.slot.pattern is Pattern.CS:
            return empty_cache(k, v), total[:, :, :0], (total, total), total
        real = full_mask(k, key_mask)
        k, v = k * real[:, None, :, None], v * real[:, None, :, None]
        seen = mask_blocks(real, self.block).expand(k.shape[0], -1, -1)
        means = block_means(k, key_mask, self.block)
        source = chunked(k, self.block), chunked(v, self.block), means, seen
        return empty_cache(k[:, :1, :0, :1])[1], total, total, source

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Sort for the block that each token falls into, a block of tokens at a time."""
        rows = []
        for start in range(0, q.shape[2], self.block):
            part = slice(start, start + self.block)
            new = full_mask(q[:, :, part], None if key_mask is None else key_mask[:, part]).expand(q.shape[0], -1)
            if k is None or v is None:
                count, total, first, source = state
                place = count.unsqueeze(1) + new.cumsum(1) - 1
                means, total = continue_prefix_means(total, count, q[:, :, part], new)
                mine = last_marked(means, first, new & (place % self.block == 0))
                out = self._read_source(q[:, :, part], mine, *source)
                state = count + new.sum(1), total, mine[:, :, -1:], source
            else:
                cache, sums, (total_k, total_q), first = state
                so_k, total_k = continue_prefix_means(total_k, cache[1], k[:, :, part], new)
                so_q, total_q = continue_prefix_means(total_q, cache[1], q[:, :, part], new)
                cache, place = extend_cache(cache, (k[:, :, part], v[:, :, part]), new)
                mine = last_marked(so_q, first, new & (place % self.block == 0))
                block = place // self.block
                sums = F.pad(sums, (0, 0, 0, -(-cache[0][0].shape[2] // self.block) - sums.shape[2]))
                sums = sums.scatter_add(2, block[:, None, :, None].expand_as(so_k), so_k * new[:, None, :, None])
                out = self._read_past(q[:, :, part], *cache[0], sums, mine, place)
                state = cache, sums, (total_k, total_q), mine[:, :, -1:]
            rows.append(out)
        return torch.cat(rows, 2), state

    def _read_source(self, q: Tensor, mine: Tensor, k: Tensor, v: Tensor, means: Tensor, seen: Tensor) -> Tensor:
        sort = masked_softmax(self._compared(mine, means), seen.any(2)[:, None, None, :]).to(v.dtype)
        far_k, far_v = ((sort @ t.flatten(3)).unflatten(3, (self.block, -1)) for t in (k, v))
        return attend_own_keys(q * self.slot.dim**-0.5, far_k, far_v, seen.any(1)[:, None, None, :])

    def _read_past(self, q: Tensor, k: Tensor, v: Tensor, sums: Tensor, mine: Tensor, place: Tensor) -> Tensor:
        own_k, own_v, own = chunked(k, self.block), chunked(v, self.block), (place // self.block)[:, None, :, None]
        past = torch.arange(sums.shape[2], device=q.device) < own
        index, share = pick_blocks(self._compared(mine, sums), past, self.picks)
        far_k, far_v = (
            gather_weighted(own_k, index, share, self.no_key),
            gather_weighted(own_v, index, share, self.no_value),
        )
        own = own.expand(-1, self.slot.heads, -1, -1)
        ones = torch.ones_like(share[..., :1])
        far_k = torch.cat([far_k, gather_weighted(own_k, own, ones, self.no_key)], 3)
        far_v = torch.cat([far_v, gather_weighted(own_v, own, ones, self.no_value)], 3)
        slot = torch.arange(-self.picks * self.block, self.block, device=q.device)
        return attend_own_keys(
            q * self.slot.dim**-0.5, far_k, far_v, (slot <= (place % self.block).unsqueeze(2)).unsqueeze(1)
        )

    def _compared(self, ours: Tensor, theirs: Tensor) -> Tensor:
        with full_precision(ours.device.type):  # means are in float32 at least; blocks that are close change places
            scores = ours @ theirs.transpose(-1, -2) / (self.slot.dim**0.5 * self.temperature)
        return scores + gumbel_noise(scores) / self.temperature if self.training else scores

    def _sorting(self, q: Tensor, k: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
        """Return which blocks of keys each block of queries is given: (batch, heads, rows, columns)."""
        queries, keys = full_mask(q, query_mask), block_means(k, key_mask, self.block)
        columns = mask_blocks(full_mask(k, key_mask), self.block).any(2)
        if self.slot.pattern is Pattern.CC:
            first = prefix_means(q, queries)[:, :, :: self.block]
            return masked_softmax(self._compared(first, keys), columns[:, None, None, :])
        scores = self._compared(block_means(q, query_mask, self.block), keys)
        return sinkhorn(scores, mask_blocks(queries, self.block).any(2), columns, self.iterations)

    def _picked(
        self, q: Tensor, k: Tensor, own_k: Tensor, own_v: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the picked keys and values, (batch, heads, blocks, picks * block, ·), and which blocks they are of."""
        sums = chunked(prefix_means(k, keys) * keys[:, None, :, None], self.block).sum(3)
        past = torch.ones(sums.shape[2], sums.shape[2], dtype=torch.bool, device=q.device).tril(-1)
        index, share = pick_blocks(self._compared(prefix_means(q, keys)[:, :, :: self.block], sums), past, self.picks)
        return (
            gather_weighted(own_k, index, share, self.no_key),
            gather_weighted(own_v, index, share, self.no_value),
            index,
        )

    def _picked_real(self, real: Tensor, index: Tensor) -> Tensor:
        """Say which of the picked keys are real (batch, heads, blocks, picks * block); what stands for none is."""
        ones = torch.ones(index.shape, device=real.device)
        real = real.to(ones.dtype)[:, None].expand(*index.shape[:2], -1, -1).unsqueeze(4)
        return gather_weighted(real, index, ones, ones.new_ones(self.slot.heads, 1, 1)).squeeze(4) > 0

    def _plain_sort(self, scores: Tensor, rows: list[list[int]], columns: list[list[int]]) -> Tensor:
        """Scale columns and rows in turn (CC: rows once)."""
        causal = self.slot.pattern.causal
        has = [[bool(column) and (bool(row) or causal) for column in columns] for row in rows]
        sort = scores.exp() * torch.tensor(has, device=scores.device)
        for _ in range(1 if causal else self.iterations):
            for axis in (1,) if causal else (0, 1):
                total = sort.sum(axis, keepdim=True)
                sort = sort / total.where(total > 0, 1.0)
        return sort

    def _plain_picks(self, scores: Tensor, columns: Any, far: list[Any], h: int, dtype: Any) -> list[Any]:
        """Pick blocks; put the learned key and value into `far` where nothing is picked."""
        left, parts = {**{-1 - c: scores.new_zeros(()) for c in range(self.picks)}, **dict(enumerate(scores))}, []
        for _ in range(self.picks):
            names = list(left)
            share, best = torch.stack([left[name] for name in names]).softmax(0).max(0)
            picked, share = names[int(best)], share.to(dtype)
            del left[picked]
            if picked < 0:
                far += [(self.no_key[h, 0] * share, self.no_value[h, 0] * share)] * self.block
            else:
                parts.append([(j, share) for j in columns[picked]])
        return parts
