"""Sparse Sinkhorn attention (Tay et al., arXiv 2002.11296): a block sees itself, and one sorted to it.

Queries, keys and values are cut into blocks of `block` tokens. The score of a block of queries and one of keys is that
of the means of their tokens, R = mean q . mean k / sqrt(dim). From exp((R + noise) / temperature), with Gumbel noise
in training and none at evaluation, comes a matrix S that sorts the blocks of keys and values softly: S K and S V. (The
paper's sorting network reads one of the two sides, and is a table for one length. This R is that of the package
sinkhorn-transformer, which sorts by log relu(R) in NS, and turns half of the heads in CS. So all four patterns are
ours.)

- NS: S is doubly stochastic, by `iterations` of Sinkhorn normalisation, columns first. Queries attend to their row of
  the sorted blocks and to their own block, in one softmax.
- CS: there is no normalisation, since the sum of a column would contain later rows. As in sinkhorn-transformer, a block
  picks `picks` earlier blocks one after another: the one with the largest weight in a softmax over those that are
  left, and it is multiplied by this weight. A block of one learned key and value can be picked too; its score is 0.
  Here R = a . b / sqrt(dim), where a is the mean of the queries up to the first one of the block, and b is the sum,
  over the keys j of the block, of the mean of the keys up to j.
- NC: as NS, without an own block.
- CC: as NC, but R = a . mean k / sqrt(dim) with the a of CS, and only the rows of S are normalised.
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
    """Each block of queries attends to a block of keys that is sorted to it, and to its own."""

    patterns = {"NS": "extension", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2002.11296"
    parity = "sinkhorn-transformer"
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
        """Score blocks, sort keys and values, and attend in blocks."""
        return self._attend_sorted(explicit_attention, q, k, v, key_mask, query_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the blocks with PyTorch's fused kernels."""
        return self._attend_sorted(fused_attention, q, k, v, key_mask, query_mask)

    def _attend_sorted(
        self,
        attention: BlockAttention,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
    ) -> Tensor:
        n = q.shape[2]
        real = full_mask(k, key_mask)
        real_blocks = mask_blocks(real, self.block)
        if key_mask is not None:
            k, v = (t.masked_fill(~key_mask[:, None, :, None], 0.0) for t in (k, v))
        own_k, own_v = chunked(k, self.block), chunked(v, self.block)
        seen: Tensor | None = None
        if self.slot.pattern is Pattern.CS:
            sorted_k, sorted_v, index = self._picked(q, k, own_k, own_v, real)
            own_seen = torch.ones(self.block, self.block, dtype=torch.bool, device=q.device).tril()
            if key_mask is None:  # picked blocks are full: only the last one may not be, and no later block picks it
                seen = torch.cat([own_seen.new_ones(self.block, self.picks * self.block), own_seen], 1)
                seen = seen[None, None, None]
            else:
                sorted_seen = self._picked_real(real_blocks, index).unsqueeze(3).expand(-1, -1, -1, self.block, -1)
                own_seen = (own_seen & real_blocks.unsqueeze(2))[:, None].expand(*q.shape[:2], -1, -1, -1)
                seen = torch.cat([sorted_seen, own_seen], 4)
        else:
            sort = self._sort_matrix(q, k, query_mask, key_mask).to(v.dtype)
            sorted_k, sorted_v = ((sort @ t.flatten(3)).unflatten(3, (self.block, -1)) for t in (own_k, own_v))
            if key_mask is not None or k.shape[2] % self.block:
                # a token of the sorted block is real if that of any block is
                seen = real_blocks.any(1)[:, None, None, None, :]
                if self.slot.pattern is Pattern.NS:
                    own_seen = real_blocks[:, None, :, None, :]
                    seen = torch.cat([seen.expand_as(own_seen), own_seen], 4)
        keys, values = sorted_k, sorted_v
        if not self.slot.pattern.cross:
            keys, values = torch.cat([sorted_k, own_k], 3), torch.cat([sorted_v, own_v], 3)
        out = attention(chunked(q, self.block), keys, values, seen)
        return out.flatten(2, 3)[:, :, :n]

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let each block of queries attend to the keys that its row of S sorts to it, and to its own block."""
        size, causal, rows = self.block, self.slot.pattern is Pattern.CS, []
        sort = self._reference_sort(q[0].double(), k[0].double()).to(q.dtype)
        source = torch.cat([k, v], -1)[0]  # keys and values are sorted alike
        blocks = F.pad(source, (0, 0, 0, -source.shape[1] % size)).unflatten(1, (-1, size))
        if causal:  # the learned key and value can be picked as well
            learned = torch.cat([self.no_key, self.no_value], -1).unsqueeze(1)
            blocks = torch.cat([learned.expand(-1, self.picks, size, -1), blocks], 1)
        length = size if causal else min(size, source.shape[1])  # of a sorted block
        for a, queries in enumerate(q[0].split(size, 1)):
            sorted_blocks = torch.einsum("hpb,hbtd->hptd", sort[:, a], blocks)[:, :, :length].flatten(1, 2)
            own_block = source[:, slice(0) if self.slot.pattern.cross else slice(a * size, (a + 1) * size)]
            keys, values = torch.cat([sorted_blocks, own_block], 1).split([q.shape[3], v.shape[3]], -1)
            weights = (queries @ keys.mT / self.slot.dim**0.5).exp()
            weights = weights.tril(sorted_blocks.shape[1]) if causal else weights
            rows.append(weights / weights.sum(-1, keepdim=True) @ values)
        return torch.cat(rows, 1)[None]

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the scores of blocks, the sorting of keys and values, and two products in each block."""
        size, channels = self.block, self.slot.dim + self.slot.values
        rows, columns = -(-n // size), -(-m // size)
        sorting, keys = rows * columns * size * channels, size
        if self.slot.pattern is Pattern.CS:
            sorting, keys = 0, (self.picks + 1) * size
        elif self.slot.pattern is Pattern.NS:
            keys = 2 * size
        return 2.0 * self.slot.heads * (rows * columns * self.slot.dim + sorting + rows * size * keys * channels)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the state before the first query; all sums and means are in float32 at least.

        CC: a count of queries, their sum, the mean that the current block is scored by, and of the source blocks of
        keys and values, the means of the blocks of keys, and the mask. CS: an empty cache of keys and values, for each
        block the sum of the prefix means of its keys, the sums of keys and of queries, and the mean that the current
        block is scored by.
        """
        wide = torch.promote_types(k.dtype, torch.float32)
        zero = torch.zeros(*k.shape[:2], 1, k.shape[3], dtype=wide, device=k.device)
        if self.slot.pattern is Pattern.CS:
            return empty_cache(k, v), zero[:, :, :0], (zero, zero), zero
        real = full_mask(k, key_mask)
        k, v = k * real[:, None, :, None], v * real[:, None, :, None]
        real_blocks = mask_blocks(real, self.block).expand(k.shape[0], -1, -1)
        means = block_means(k, key_mask, self.block)
        source = chunked(k, self.block), chunked(v, self.block), means, real_blocks
        return empty_cache(k[:, :1, :0, :1])[1], zero, zero, source

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Sort for the block of each token, and attend, at most `block` tokens at a time."""
        rows = []
        for start in range(0, q.shape[2], self.block):
            block = slice(start, start + self.block)
            mask = full_mask(q[:, :, block], None if key_mask is None else key_mask[:, block]).expand(q.shape[0], -1)
            if k is None or v is None:
                count, total, first_mean, source = state
                position = count.unsqueeze(1) + mask.cumsum(1) - 1
                q_means, total = continue_prefix_means(total, count, q[:, :, block], mask)
                first_means = last_marked(q_means, first_mean, mask & (position % self.block == 0))
                out = self._step_source(q[:, :, block], first_means, *source)
                state = count + mask.sum(1), total, first_means[:, :, -1:], source
            else:
                cache, block_sums, (k_total, q_total), first_mean = state
                k_means, k_total = continue_prefix_means(k_total, cache[1], k[:, :, block], mask)
                q_means, q_total = continue_prefix_means(q_total, cache[1], q[:, :, block], mask)
                cache, position = extend_cache(cache, (k[:, :, block], v[:, :, block]), mask)
                first_means = last_marked(q_means, first_mean, mask & (position % self.block == 0))
                blocks = -(-cache[0][0].shape[2] // self.block)
                block_sums = F.pad(block_sums, (0, 0, 0, blocks - block_sums.shape[2]))
                own_block = (position // self.block)[:, None, :, None].expand_as(k_means)
                block_sums = block_sums.scatter_add(2, own_block, k_means * mask[:, None, :, None])
                out = self._step_past(q[:, :, block], *cache[0], block_sums, first_means, position)
                state = cache, block_sums, (k_total, q_total), first_means[:, :, -1:]
            rows.append(out)
        return torch.cat(rows, 2), state

    def _step_source(
        self, q: Tensor, first_means: Tensor, k: Tensor, v: Tensor, means: Tensor, real_blocks: Tensor
    ) -> Tensor:
        """Attend to the sorted source; the other tensors are those of the state (CC)."""
        sort = masked_softmax(self._block_scores(first_means, means), real_blocks.any(2)[:, None, None, :]).to(v.dtype)
        sorted_k, sorted_v = ((sort @ t.flatten(3)).unflatten(3, (self.block, -1)) for t in (k, v))
        return attend_own_keys(q * self.slot.dim**-0.5, sorted_k, sorted_v, real_blocks.any(1)[:, None, None, :])

    def _step_past(
        self, q: Tensor, k: Tensor, v: Tensor, block_sums: Tensor, first_means: Tensor, position: Tensor
    ) -> Tensor:
        """Attend to picked blocks and the own block of the cache k, v; `position` (batch, c) is that of the queries."""
        k_blocks, v_blocks = chunked(k, self.block), chunked(v, self.block)
        own_block = (position // self.block)[:, None, :, None]
        past = torch.arange(block_sums.shape[2], device=q.device) < own_block
        index, weight = pick_blocks(self._block_scores(first_means, block_sums), past, self.picks)
        picked_k, picked_v = (
            gather_weighted(k_blocks, index, weight, self.no_key),
            gather_weighted(v_blocks, index, weight, self.no_value),
        )
        own_block = own_block.expand(-1, self.slot.heads, -1, -1)
        ones = torch.ones_like(weight[..., :1])
        keys = torch.cat([picked_k, gather_weighted(k_blocks, own_block, ones, self.no_key)], 3)
        values = torch.cat([picked_v, gather_weighted(v_blocks, own_block, ones, self.no_value)], 3)
        # offset of each key in the own block; picked keys are negative, and so always seen
        offset = torch.arange(-self.picks * self.block, self.block, device=q.device)
        seen = (offset <= (position % self.block).unsqueeze(2)).unsqueeze(1)
        return attend_own_keys(q * self.slot.dim**-0.5, keys, values, seen)

    def _block_scores(self, q_means: Tensor, k_means: Tensor) -> Tensor:
        """Return (R + noise) / temperature: (batch, heads, rows, columns), in float32 at least, as the means are."""
        with full_precision(q_means.device.type):  # rounding would exchange blocks with close scores
            scores = q_means @ k_means.transpose(-1, -2) / (self.slot.dim**0.5 * self.temperature)
        return scores + gumbel_noise(scores) / self.temperature if self.training else scores

    def _sort_matrix(self, q: Tensor, k: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
        """Return S: (batch, heads, rows, columns)."""
        real_queries, k_means = full_mask(q, query_mask), block_means(k, key_mask, self.block)
        columns = mask_blocks(full_mask(k, key_mask), self.block).any(2)
        if self.slot.pattern is Pattern.CC:
            first_means = prefix_means(q, real_queries)[:, :, :: self.block]
            return masked_softmax(self._block_scores(first_means, k_means), columns[:, None, None, :])
        scores = self._block_scores(block_means(q, query_mask, self.block), k_means)
        return sinkhorn(scores, mask_blocks(real_queries, self.block).any(2), columns, self.iterations)

    def _picked(
        self, q: Tensor, k: Tensor, k_blocks: Tensor, v_blocks: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the picked keys and values, (batch, heads, blocks, picks * block, ·), and the blocks' indices."""
        block_sums = chunked(prefix_means(k, real) * real[:, None, :, None], self.block).sum(3)
        past = torch.ones(block_sums.shape[2], block_sums.shape[2], dtype=torch.bool, device=q.device).tril(-1)
        scores = self._block_scores(prefix_means(q, real)[:, :, :: self.block], block_sums)
        index, weight = pick_blocks(scores, past, self.picks)
        return (
            gather_weighted(k_blocks, index, weight, self.no_key),
            gather_weighted(v_blocks, index, weight, self.no_value),
            index,
        )

    def _picked_real(self, real_blocks: Tensor, index: Tensor) -> Tensor:
        """Return the mask of the picked keys, (batch, heads, blocks, picks * block); the learned key counts as real."""
        ones = torch.ones(index.shape, device=real_blocks.device)
        blocks = real_blocks.to(ones.dtype)[:, None].expand(*index.shape[:2], -1, -1).unsqueeze(4)
        return gather_weighted(blocks, index, ones, ones.new_ones(self.slot.heads, 1, 1)).squeeze(4) > 0

    def _reference_sort(self, q: Tensor, k: Tensor) -> Tensor:
        """Return S, (heads, rows, 1, blocks); in CS the weights of the picks, (heads, rows, picks, picks + blocks)."""
        causal_self, size, starts = self.slot.pattern is Pattern.CS, self.block, range(0, q.shape[1], self.block)
        if self.slot.pattern.causal:
            q_means = torch.stack([q[:, : start + 1].mean(1) for start in starts], 1)
        else:
            q_means = torch.stack([t.mean(1) for t in q.split(size, 1)], 1)
        if causal_self:
            k = k.cumsum(1) / torch.arange(1, k.shape[1] + 1, device=k.device).unsqueeze(1)
        k_summaries = torch.stack([t.sum(1) if causal_self else t.mean(1) for t in k.split(size, 1)], 1)
        sort = (q_means @ k_summaries.mT / (self.slot.dim**0.5 * self.temperature)).exp()
        if causal_self:  # pick number p has the p-th largest weight, divided by the sum of all weights but the larger
            sort, order = F.pad(sort.tril(-1), (self.picks, 0), value=1.0).sort(-1, descending=True)
            remaining = sort.flip(-1).cumsum(-1).flip(-1)[..., : self.picks]
            weights = sort[..., : self.picks] / remaining
            return F.one_hot(order[..., : self.picks], sort.shape[-1]) * weights.unsqueeze(-1)
        for _ in range(1 if self.slot.pattern.causal else self.iterations):
            sort = sort if self.slot.pattern.causal else sort / sort.sum(1, keepdim=True)
            sort = sort / sort.sum(2, keepdim=True)
        return sort.unsqueeze(2)
