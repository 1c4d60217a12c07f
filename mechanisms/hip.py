"""HiP attention (Lee et al., arXiv 2406.09827): softmax attention to key blocks that a search down a tree finds.

The keys that a block of queries may see lie in B blocks of `key_block` keys. At first they are split into L = keys /
key_block nodes, node l from block floor(l B / L) up to floor((l + 1) B / L). Then, until no node has more than one
block, every node is halved (of an odd number the first half has one more), and each half is scored by its first block:

    score = max of q_i . k_j over every second query i of the queries' block, from its second one on, and that block's j

The L halves of the largest scores stay, of equal scores the earlier. The queries attend by softmax to the blocks that
are left, as far as they see them. The search has no gradient: the published method needs no training.

- CS is the paper's with blocks of one query: in larger ones a query chooses for those before it. So is CC (ours).
- NC is the paper's with a source of its own. NS (ours) lets all queries see all keys.

The later versions' sinks and windows are left out. The search is simulated: all scores are computed, which shows what
is found and saves no time.
"""

from math import ceil, log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Pattern
from cab.ops.pairwise import Pairwise
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.softmax import FLOOR, masked_softmax, repeat_heads
from cab.ops.top_k import top_k

Mask = Tensor | None


class Hip(Pairwise):
    """Softmax attention to the key blocks at the leaves of a pruned tree."""

    patterns = {"NS": "extension", "CS": "native", "NC": "native", "CC": "extension"}
    paper = "arXiv 2406.09827"
    titles = ("HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning",)
    cost = "O(n m d)"
    grouped = True
    accepts = {"keys": ">= 1", "key_block": ">= 1", "query_block": ">= 1"}
    checks = ({"keys": 8, "key_block": 2, "query_block": 4}, {"keys": 3, "key_block": 1, "query_block": 5})
    limits = ({"params": {"keys": 1000}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, keys: int = 128, key_block: int = 2, query_block: int = 32) -> None:
        super().__init__(slot)
        if keys % key_block:
            raise ValueError(f"keys={keys}, key_block={key_block}: keys are found in whole blocks")
        self.nodes, self.key_block = keys // key_block, key_block
        self.query_block = 1 if slot.pattern.causal else query_block

    def read(self, q: Tensor, k: Tensor, v: Tensor, *, seen: Mask, position: Tensor, query_mask: Mask) -> Tensor:
        """Search, and attend to what is found."""
        k, v, dtype = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1]), at_least_float32(q)
        seen = k.new_ones(1, k.shape[2], dtype=torch.bool) if seen is None else seen
        seen = seen.view(-1, 1, *seen.shape[-2:])
        with full_precision(q.device.type):
            scores = (q.to(dtype) * self.slot.dim**-0.5) @ k.to(dtype).mT
            selected = self._search(scores.detach(), seen, query_mask)
            return (masked_softmax(scores, seen & selected) @ v.to(dtype)).to(v.dtype)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Search for one block of queries after the other, with lists."""
        dtype, out, size = at_least_float32(q), [], self.key_block
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        scores = q.to(dtype) @ k.to(dtype).mT
        for head in range(q.shape[1]):
            for start in range(0, q.shape[2], self.query_block):
                rows = list(range(start, min(start + self.query_block, q.shape[2])))
                m = start + 1 if self.slot.pattern is Pattern.CS else k.shape[2]
                asking = scores[0, head, rows[1::2] or rows, :m]
                best, blocks = [block.max().item() for block in asking.split(size, 1)], ceil(m / size)
                borders = [blocks * node // self.nodes for node in range(self.nodes + 1)]
                nodes = [(first, last) for first, last in zip(borders, borders[1:], strict=False) if first < last]
                while any(last - first > 1 for first, last in nodes):
                    halves = [(a, b) for first, last in nodes for a, b in _halves(first, last) if a < b]
                    nodes = sorted(sorted(halves, key=lambda half: -best[half[0]])[: self.nodes])
                keys = [j for first, _ in nodes for j in range(first * size, min(first * size + size, m))]
                weights = (scores[0, head, rows][:, keys] / self.slot.dim**0.5).softmax(-1)
                out.append(weights @ v[0, head, keys].to(dtype))
        return torch.cat(out).view(1, q.shape[1], q.shape[2], -1).to(v.dtype)

    def flops_needed(self, n: int, m: int) -> float:
        """Count the halves that every second query scores, and attention to what is found; at most all pairs."""
        few = min(self.nodes * self.key_block, m)
        read = few * (2 * n - few + 1) / 2 if self.past_only else n * few
        asking = max(self.query_block // 2, 1) / self.query_block
        scored = asking * n * 2 * few * ceil(log2(max(ceil(m / self.key_block) / self.nodes, 1)))
        searching = 2.0 * self.slot.heads * self.slot.dim * scored
        return min(searching + self.pair_flops * read, super().flops_needed(n, m))

    def _search(self, scores: Tensor, seen: Tensor, query_mask: Mask) -> Tensor:
        """Return the keys of the blocks that are found, (batch, heads, n, m). `seen` is (batch or 1, 1, n or 1, m)."""
        n, m, size, rows = *scores.shape[2:], self.key_block, self.query_block
        asking = self._asking(scores, query_mask)
        hidden = scores.masked_fill(~(seen & asking), FLOOR)
        tail = (0, -m % size, 0, -n % rows)
        blocks = F.pad(hidden, tail, value=FLOOR).unflatten(3, (-1, size)).unflatten(2, (-1, rows)).amax((3, 5))
        count = F.pad(seen.sum(-1).expand(-1, -1, n), (0, -n % rows)).unflatten(2, (-1, rows)).amax(3)
        counted = (count.unsqueeze(-1) + size - 1) // size  # blocks: what is seen are the first keys
        borders = counted * torch.arange(self.nodes + 1, device=scores.device) // self.nodes
        first, last = (t.expand(*blocks.shape[:3], -1) for t in (borders[..., :-1], borders[..., 1:]))
        for _ in range(ceil(log2(max(ceil(blocks.shape[3] / self.nodes), 1)))):
            middle = first + (last - first + 1) // 2
            first, last = torch.stack([first, middle], -1).flatten(-2), torch.stack([middle, last], -1).flatten(-2)
            of_first = blocks.gather(-1, first.clamp(max=blocks.shape[3] - 1))
            best, counts = top_k(of_first, self.nodes, first < last)
            best = best.where(torch.ones_like(best, dtype=torch.bool) if counts is None else counts, first.shape[-1])
            best = best.sort(-1).values  # in their order; what is none of them comes last, and is empty
            first, last = (F.pad(t, (0, 1)).gather(-1, best) for t in (first, last))
        leaf = first.where(first < last, blocks.shape[3])
        chosen = torch.zeros_like(F.pad(blocks, (0, 1)), dtype=torch.bool).scatter(-1, leaf, True)[..., :-1]
        return chosen.repeat_interleave(rows, 2)[:, :, :n].repeat_interleave(size, 3)[..., :m]

    def _asking(self, scores: Tensor, query_mask: Mask) -> Tensor:
        """Return the queries that score blocks, (batch or 1, 1, n, 1): every second one of a block, or its only one."""
        position = torch.arange(scores.shape[2], device=scores.device)
        real = torch.ones_like(position, dtype=torch.bool)[None] if query_mask is None else query_mask
        if self.query_block > 1:
            followed = torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], 1)
            real = real & ((position % self.query_block % 2 == 1) | (position % self.query_block == 0) & ~followed)
        return real[:, None, :, None]


def _halves(first: int, last: int) -> list[tuple[int, int]]:
    middle = first + (last - first + 1) // 2
    return [(first, middle), (middle, last)]
