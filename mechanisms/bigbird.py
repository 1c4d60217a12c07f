"""BigBird (Zaheer et al., arXiv 2007.14062): blocks of queries see neighbouring, global and random blocks of keys.

A block of queries sees its own block and the one on each side, the first and the last block, and `random` other blocks,
which are drawn for each head and block when the mechanism is built. The first and the last block of queries see all
keys (the paper's internal global tokens, ITC).

The last block is the last one with a real token: in a padded sample it is the sample's own, not the batch's.

- CS: a block sees its own block up to the query, the block before it, the first block, and random earlier blocks. The
  last block is in the future of all others, so it is not global.
- NC and CC: the slot has N blocks of queries and M of keys. Block t of queries sees block floor(t M / N) of the source
  and the one on each side, the first, the last, and random blocks. No block of queries is global, because the last
  block of a growing target is not known.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache
from cab.ops.softmax import masked_softmax


class BigBird(Mechanism):
    """Blocks see their neighbours, the first and the last block, and a few random blocks."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2007.14062"
    parity = "transformers (BigBirdBlockSparseAttention)"
    cost = "O(n b (5 + r) d)"
    accepts = {"block": ">= 1", "random": ">= 0"}
    checks = ({"block": 3, "random": 2}, {"block": 4, "random": 0}, {"block": 2, "random": 4})
    limits = (
        {"params": {"block": 64}, "equals": "softmax"},
        {"params": {"block": 4, "random": 16}, "equals": "softmax"},
    )

    rank: Tensor

    def __init__(self, slot: Any, *, block: int = 64, random: int = 3) -> None:
        super().__init__(slot)
        self.block, self.random = block, random
        self.rows, self.columns = -(-slot.max_len // block), -(-slot.keys // block)
        # each head and block of queries takes its random blocks in an order of its own; `rank` is the inverse of it
        order = torch.rand(slot.heads, self.rows, self.columns).argsort(-1)
        self.register_buffer("rank", order.argsort(-1).to(torch.int32))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Gather the blocks of keys that each block of queries sees; where that is all, compute every score."""
        n, m, block = q.shape[2], k.shape[2], self.block
        q, rows, columns = q * self.slot.dim**-0.5, -(-n // block), -(-m // block)
        index, seen = self._seen_blocks(torch.arange(rows, device=q.device)[None], columns, key_mask)
        if index.shape[3] >= columns:
            visible = self._visible(index, seen, columns, key_mask)
            visible = visible.repeat_interleave(block, 2)[:, :, :n].repeat_interleave(block, 3)[..., :m]
            visible = visible.tril() if self._causal_self else visible
            visible = visible if key_mask is None else visible & key_mask[:, None, None, :]
            return masked_softmax(q @ k.transpose(-1, -2), visible) @ v
        out = self._gathered(q, k, v, index, seen, key_mask)
        if self.slot.pattern is Pattern.NS:
            ends = self._first_and_last(columns, key_mask, q.device).expand(q.shape[0], -1)
            out = self._with_global_rows(out, q, k, v, ends, key_mask)
        return out.flatten(2, 3)[:, :, :n]

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mark, for each head and block of queries, the blocks of keys that it sees; attend to the marked keys."""
        n, m, block, pattern = q.shape[2], k.shape[2], self.block, self.slot.pattern
        last, seen = (m - 1) // block, torch.zeros(self.slot.heads, n, m, dtype=torch.bool, device=q.device)
        for head in range(self.slot.heads):
            for t in range(-(-n // block)):
                centre = t * self.columns // self.rows if pattern.cross else t
                others, blocks = range(last + 1), {0, centre - 1, centre, centre + 1, last}
                if pattern is Pattern.CS:
                    others, blocks = range(t), {0, t - 1, t}
                blocks = {s for s in blocks if 0 <= s <= last}
                random_order = self.rank[head, t].argsort().tolist()
                blocks |= set([s for s in random_order if s in others and s not in blocks][: self.random])
                if pattern is Pattern.NS and t in (0, last):
                    blocks = set(range(last + 1))
                for s in blocks:
                    seen[head, t * block : (t + 1) * block, s * block : (s + 1) * block] = True
        scores = q @ k.mT / self.slot.dim**0.5
        return scores.masked_fill(~(seen.tril() if pattern is Pattern.CS else seen), -torch.inf).softmax(-1) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count scores and sums over the blocks that are gathered, and over all keys for the global queries."""
        rows, columns, block = -(-n // self.block), -(-m // self.block), self.block
        width = (3 if self._causal_self else 5) + min(self.random, columns)
        pairs = n * m
        if width < columns:
            pairs = rows * block * width * block + (2 * block * m if self.slot.pattern is Pattern.NS else 0)
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """Count scores and sums over the pairs of query and key that are seen."""
        pairs, rows, last = 0, -(-n // self.block), -(-m // self.block) - 1
        for t in range(rows):
            queries = min(self.block, n - t * self.block)
            centre = t * self.columns // self.rows if self.slot.pattern.cross else t
            most = centre if self._causal_self else last
            seen = {s for s in (centre - 1, centre, centre + 1) if 0 <= s <= most} | {0, most}
            full = len(seen) - 1 + min(self.random, most + 1 - len(seen))  # all but the last one, which may be shorter
            if self._causal_self:
                pairs += queries * full * self.block + queries * (queries + 1) // 2
            elif self.slot.pattern is Pattern.NS and t in (0, last):
                pairs += queries * m
            else:
                pairs += queries * (full * self.block + m - last * self.block)
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep the source, the blocks that are seen and the number of queries so far (CC); or an empty cache (CS)."""
        if self.slot.pattern.cross:
            columns = -(-k.shape[2] // self.block)
            row = torch.arange(self.rows, device=k.device)[None]
            visible = self._visible(*self._seen_blocks(row, columns, key_mask), columns, key_mask)
            visible = visible.expand(k.shape[0], -1, -1, -1)
            real = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
            return k, v, visible, real if key_mask is None else key_mask, empty_cache(k[:, :1, :0, :1])[1]
        return empty_cache(k, v)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend from at most `block` new tokens at a time, which see blocks by their positions."""
        rows = []
        for start in range(0, q.shape[2], self.block):
            part = slice(start, start + self.block)
            real = None if key_mask is None else key_mask[:, part]
            if k is None or v is None:
                keys, values, visible, seen, count = state
                new = torch.ones_like(q[:, 0, part, 0], dtype=torch.bool) if real is None else real
                position = (count.unsqueeze(1) + new.cumsum(1) - 1).clamp(min=0)
                row = position // self.block
                state, seen = (keys, values, visible, seen, count + new.sum(1)), seen[:, None, None, :]
            else:
                state, position = extend_cache(state, (k[:, :, part], v[:, :, part]), real)
                keys, values = state[0]
                columns = -(-keys.shape[2] // self.block)
                # at most `block` tokens lie in at most two blocks, the first token's and the last token's
                first_last = torch.stack([position[:, 0], position[:, -1]], 1) // self.block
                visible = self._visible(*self._seen_blocks(first_last, columns, None), columns, None)
                row = position // self.block - first_last[:, :1]
                seen = (torch.arange(keys.shape[2], device=q.device) <= position.unsqueeze(2)).unsqueeze(1)
            row_index = row[:, None, :, None].expand(-1, self.slot.heads, -1, visible.shape[3])
            blocks = visible.gather(2, row_index).repeat_interleave(self.block, 3)[..., : keys.shape[2]]
            scores = (q[:, :, part] * self.slot.dim**-0.5) @ keys.transpose(-1, -2)
            rows.append(masked_softmax(scores, seen & blocks) @ values)
        return torch.cat(rows, 2), state

    @property
    def _causal_self(self) -> bool:
        return self.slot.pattern is Pattern.CS

    def _seen_blocks(self, t: Tensor, columns: int, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the blocks of keys that blocks t (batch or 1, rows) of queries see, and which entries are valid.

        Both are (batch or 1, heads, rows, entries). No two valid entries of a row are equal.
        """
        s = torch.arange(columns, device=t.device)
        centre = t * self.columns // self.rows if self.slot.pattern.cross else t
        ends = self._first_and_last(columns, key_mask, t.device)
        batch = max(len(t), len(ends))
        ends = ends[:, None, None, :].expand(batch, -1, t.shape[1], -1)
        offset = torch.arange(-1, 1 if self._causal_self else 2, device=t.device)
        near = (centre.unsqueeze(2) + offset).unsqueeze(1).expand(batch, -1, -1, -1)
        last = near[..., -1:] if self._causal_self else ends[..., 1:]
        global_blocks = ends[..., :1] if self._causal_self else ends
        near_seen = (near >= 0) & (near <= last)
        global_seen = ((global_blocks.unsqueeze(4) != near.unsqueeze(3)) | ~near_seen.unsqueeze(3)).all(4)
        if not self._causal_self:  # where the first block is also the last, it counts once
            always = torch.ones_like(global_seen[..., 0])
            global_seen = global_seen & torch.stack([always, global_blocks[..., 1] > 0], 3)
        index, seen = torch.cat([near, global_blocks], 3), torch.cat([near_seen, global_seen], 3)
        index, seen = (x.expand(-1, self.slot.heads, -1, -1) for x in (index, seen))
        if self.random:
            already_seen = ((s == index.unsqueeze(4)) & seen.unsqueeze(4)).any(3)
            candidates = ~already_seen & (s <= last)
            rank = self.rank[:, t].transpose(0, 1)[..., :columns]
            rank = rank.masked_fill(~candidates, self.columns)
            lowest, drawn = rank.topk(min(self.random, columns), largest=False)
            index, seen = torch.cat([index, drawn], 3), torch.cat([seen, lowest < self.columns], 3)
        return index.clamp(0, columns - 1), seen

    def _first_and_last(self, columns: int, key_mask: Tensor | None, device: torch.device) -> Tensor:
        """Return the first block and the last one that holds a real token: (batch or 1, 2)."""
        if key_mask is None:
            return torch.tensor([[0, columns - 1]], device=device)
        length = (key_mask * torch.arange(1, key_mask.shape[1] + 1, device=device)).amax(1)
        last = (-(-length // self.block) - 1).clamp(min=0)
        return torch.stack([torch.zeros_like(last), last], 1)

    def _visible(self, index: Tensor, seen: Tensor, columns: int, key_mask: Tensor | None) -> Tensor:
        """Return which blocks of keys each block of queries sees, (batch or 1, heads, rows, columns)."""
        visible = torch.zeros(*index.shape[:3], columns, dtype=torch.int32, device=index.device)
        visible = visible.scatter_add(3, index, seen.to(torch.int32)) > 0
        if self.slot.pattern is not Pattern.NS:
            return visible
        t = torch.arange(visible.shape[2], device=index.device)
        is_global = (t == self._first_and_last(columns, key_mask, index.device).unsqueeze(2)).any(1)
        return visible | is_global[:, None, :, None]

    def _gathered(
        self, q: Tensor, k: Tensor, v: Tensor, index: Tensor, seen: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """Return each block's softmax attention to the blocks at `index`, (batch, heads, rows, block, size)."""
        batch, heads, m, _ = k.shape
        block, columns, (rows, entries) = self.block, -(-m // self.block), index.shape[2:]
        tail = columns * block - m
        real = torch.ones(1, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        real = F.pad(real, (0, tail)).reshape(-1, columns, block)
        index = index.expand(batch, -1, -1, -1)
        real = real.expand(batch, -1, -1)[torch.arange(batch, device=q.device)[:, None, None, None], index]
        seen = (seen.unsqueeze(4) & real).flatten(3).unsqueeze(3)
        if self._causal_self:  # the second entry is the block's own
            past = torch.ones(block, entries, block, dtype=torch.bool, device=q.device)
            past[:, 1] = past[:, 1].tril()
            seen = seen & past.flatten(1)
        row = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1) * columns + index
        tables = (F.pad(t, (0, 0, 0, tail)).reshape(batch * heads * columns, -1) for t in (k, v))
        k, v = (F.embedding(row, t).view(batch, heads, rows, entries * block, -1) for t in tables)
        q = F.pad(q, (0, 0, 0, rows * block - q.shape[2])).reshape(batch, heads, rows, block, -1)
        return masked_softmax(q @ k.transpose(-1, -2), seen) @ v

    def _with_global_rows(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """Replace the rows of the first and the last block of queries by softmax attention to all keys."""
        batch, heads, rows, block, size = out.shape
        q = F.pad(q, (0, 0, 0, rows * block - q.shape[2])).reshape(batch, heads, rows, -1)
        q = q.gather(2, ends[:, None, :, None].expand(-1, heads, -1, q.shape[3])).view(batch, heads, 2 * block, -1)
        seen = None if key_mask is None else key_mask[:, None, None, :]
        global_out = (masked_softmax(q @ k.transpose(-1, -2), seen) @ v).view(batch, heads, 2, block * size)
        # where the first block is also the last, the copy goes to an extra row, which is dropped
        row = torch.stack([ends[:, 0], ends[:, 1].where(ends[:, 1] > 0, rows)], 1)
        padded = F.pad(out.flatten(3), (0, 0, 0, 1))
        padded = padded.scatter(2, row[:, None, :, None].expand(-1, heads, -1, block * size), global_out)
        return padded[:, :, :rows].unflatten(3, (block, size))
