"""BigBird (Zaheer et al., arXiv 2007.14062): blocks of queries see neighbouring, global and random blocks of keys.

A block of queries sees its own block and the one on each side, the first and the last block, and `random` others, drawn
for each head and block when the mechanism is built. The first and the last block of queries see everything (the
paper's internal global tokens, ITC).

- CS: the same and the past: its own block, the one before, the first, and random earlier ones. A last block is in the
  future of all others, so none is global.
- NC and CC: block t of N looks at block floor(t M / N) of the source's M (of the slot's lengths) and those beside it,
  the first, the last, and random ones. No query is global: the last block of a target that grows is not known.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache
from cab.ops.softmax import masked_softmax


class BigBird(Mechanism):
    """Blocks see their neighbours, the ends, and a few blocks drawn at random."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2007.14062"
    cost = "O(n b (5 + r) d)"
    checks = ({"block": 3, "random": 2}, {"block": 4, "random": 0}, {"block": 2, "random": 4})
    limits = (
        {"params": {"block": 64}, "equals": "softmax"},
        {"params": {"block": 4, "random": 16}, "equals": "softmax"},
    )

    rank: Tensor

    def __init__(self, slot: Any, *, block: int = 64, random: int = 3) -> None:
        super().__init__(slot)
        if block < 1:
            raise ValueError(f"block={block}: at least 1 token is needed")
        if random < 0:
            raise ValueError(f"random={random}: 0 or more blocks")
        self.block, self.random = block, random
        self.rows, self.columns = -(-slot.max_len // block), -(-slot.keys // block)
        # each head and block of queries looks for its random blocks in an order of its own: the place of each in it
        order = torch.rand(slot.heads, self.rows, self.columns).argsort(-1)
        self.register_buffer("rank", order.argsort(-1).to(torch.int32))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Gather the blocks that a block sees; where they are all, weigh everything."""
        n, m, block = q.shape[2], k.shape[2], self.block
        q, rows, columns = q * self.slot.dim**-0.5, -(-n // block), -(-m // block)
        index, seen = self._chosen(torch.arange(rows, device=q.device)[None], columns, key_mask)
        if index.shape[3] >= columns:
            visible = self._visible(index, seen, columns, key_mask)
            visible = visible.repeat_interleave(block, 2)[:, :, :n].repeat_interleave(block, 3)[..., :m]
            visible = visible.tril() if self._causal_self else visible
            visible = visible if key_mask is None else visible & key_mask[:, None, None, :]
            return masked_softmax(q @ k.transpose(-1, -2), visible) @ v
        out = self._gathered(q, k, v, index, seen, key_mask)
        if self.slot.pattern is Pattern.NS:
            ends = self._ends(columns, key_mask, q.device).expand(q.shape[0], -1)
            out = self._with_global_rows(out, q, k, v, ends, key_mask)
        return out.flatten(2, 3)[:, :, :n]

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write for each block of queries which blocks it sees, and weigh those keys."""
        n, m, block = q.shape[2], k.shape[2], self.block
        out = torch.zeros(*q.shape[:3], v.shape[3], dtype=v.dtype, device=v.device)
        for b in range(q.shape[0]):
            real = torch.ones(m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask[b]
            last = -(-int(real.nonzero().max() + 1) // block) - 1 if real.any() else 0
            for h in range(self.slot.heads):
                for t in range(-(-n // block)):
                    centre = t * self.columns // self.rows if self.slot.pattern.cross else t
                    sees = {s for s in (centre - 1, centre, centre + 1) if 0 <= s <= last} | {0, last}
                    if self._causal_self:
                        sees = {s for s in (0, t - 1, t) if s >= 0}
                    most = t - 1 if self._causal_self else last
                    others = [s for s in self.rank[h, t].argsort().tolist() if s not in sees and s <= most]
                    sees |= set(others[: self.random])
                    if self.slot.pattern is Pattern.NS and t in (0, last):
                        sees = set(range(last + 1))
                    keys = torch.tensor([j for j in range(m) if j // block in sees and real[j]], dtype=torch.long)
                    for i in range(t * block, min((t + 1) * block, n)):
                        near = keys[keys <= i] if self._causal_self else keys
                        if len(near):
                            scores = k[b, h, near] @ q[b, h, i] / self.slot.dim**0.5
                            out[b, h, i] = scores.softmax(0) @ v[b, h, near]
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores and sums over the blocks that are gathered, and the rows of the global queries."""
        rows, columns, block = -(-n // self.block), -(-m // self.block), self.block
        width = (3 if self._causal_self else 5) + min(self.random, columns)
        pairs = n * m
        if width < columns:
            pairs = rows * block * width * block + (2 * block * m if self.slot.pattern is Pattern.NS else 0)
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """Scores and sums over the pairs that are seen alone."""
        pairs, rows, last = 0, -(-n // self.block), -(-m // self.block) - 1
        for t in range(rows):
            queries = min(self.block, n - t * self.block)
            centre = t * self.columns // self.rows if self.slot.pattern.cross else t
            most = centre if self._causal_self else last
            sees = {s for s in (centre - 1, centre, centre + 1) if 0 <= s <= most} | {0, most}
            whole = len(sees) - 1 + min(self.random, most + 1 - len(sees))  # the last one may not be
            if self._causal_self:
                pairs += queries * whole * self.block + queries * (queries + 1) // 2
            elif self.slot.pattern is Pattern.NS and t in (0, last):
                pairs += queries * m
            else:
                pairs += queries * (whole * self.block + m - last * self.block)
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep the source and which blocks are seen (CC), or what comes (CS); count the tokens of each row."""
        if self.slot.pattern.cross:
            columns = -(-k.shape[2] // self.block)
            row = torch.arange(self.rows, device=k.device)[None]
            visible = self._visible(*self._chosen(row, columns, key_mask), columns, key_mask)
            visible = visible.expand(k.shape[0], -1, -1, -1)
            real = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
            return k, v, visible, real if key_mask is None else key_mask, empty_cache(k[:, :1, :0, :1])[1]
        return empty_cache(k, v)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Look each token's blocks up by its position, a block of tokens at a time."""
        rows = []
        for start in range(0, q.shape[2], self.block):
            part = slice(start, start + self.block)
            real = None if key_mask is None else key_mask[:, part]
            if k is None or v is None:
                keys, values, visible, seen, count = state
                new = torch.ones_like(q[:, 0, part, 0], dtype=torch.bool) if real is None else real
                place = (count.unsqueeze(1) + new.cumsum(1) - 1).clamp(min=0)
                row = place // self.block
                state, seen = (keys, values, visible, seen, count + new.sum(1)), seen[:, None, None, :]
            else:
                state, place = extend_cache(state, (k[:, :, part], v[:, :, part]), real)
                keys, values = state[0]
                columns = -(-keys.shape[2] // self.block)
                # as many tokens as a block has lie in two at most, those of the first and of the last
                ends = torch.stack([place[:, 0], place[:, -1]], 1) // self.block
                visible = self._visible(*self._chosen(ends, columns, None), columns, None)
                row = place // self.block - ends[:, :1]
                seen = (torch.arange(keys.shape[2], device=q.device) <= place.unsqueeze(2)).unsqueeze(1)
            of_row = row[:, None, :, None].expand(-1, self.slot.heads, -1, visible.shape[3])
            blocks = visible.gather(2, of_row).repeat_interleave(self.block, 3)[..., : keys.shape[2]]
            scores = (q[:, :, part] * self.slot.dim**-0.5) @ keys.transpose(-1, -2)
            rows.append(masked_softmax(scores, seen & blocks) @ values)
        return torch.cat(rows, 2), state

    @property
    def _causal_self(self) -> bool:
        return self.slot.pattern is Pattern.CS

    def _chosen(self, t: Tensor, columns: int, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the blocks that blocks t (batch or 1, rows) of queries see, and which of these places are filled.

        Both (batch or 1, heads, rows, places); no block is filled in twice.
        """
        s = torch.arange(columns, device=t.device)
        centre = t * self.columns // self.rows if self.slot.pattern.cross else t
        ends = self._ends(columns, key_mask, t.device)
        batch = max(len(t), len(ends))
        ends = ends[:, None, None, :].expand(batch, -1, t.shape[1], -1)
        beside = torch.arange(-1, 1 if self._causal_self else 2, device=t.device)
        near = (centre.unsqueeze(2) + beside).unsqueeze(1).expand(batch, -1, -1, -1)
        last = near[..., -1:] if self._causal_self else ends[..., 1:]
        far = ends[..., :1] if self._causal_self else ends
        near_seen = (near >= 0) & (near <= last)
        apart = ((far.unsqueeze(4) != near.unsqueeze(3)) | ~near_seen.unsqueeze(3)).all(4)
        if not self._causal_self:
            apart = apart & torch.stack([torch.ones_like(far[..., 0], dtype=torch.bool), far[..., 1] > 0], 3)
        index, seen = torch.cat([near, far], 3), torch.cat([near_seen, apart], 3)
        index, seen = (x.expand(-1, self.slot.heads, -1, -1) for x in (index, seen))
        if self.random:
            taken = ((s == index.unsqueeze(4)) & seen.unsqueeze(4)).any(3)
            free = ~taken & (s <= last)
            rank = self.rank[:, t].transpose(0, 1)[..., :columns]
            rank = rank.masked_fill(~free, self.columns)
            best, others = rank.topk(min(self.random, columns), largest=False)
            index, seen = torch.cat([index, others], 3), torch.cat([seen, best < self.columns], 3)
        return index.clamp(0, columns - 1), seen

    def _ends(self, columns: int, key_mask: Tensor | None, device: torch.device) -> Tensor:
        """Return the first block and the last one that holds a real token: (batch or 1, 2)."""
        if key_mask is None:
            return torch.tensor([[0, columns - 1]], device=device)
        length = (key_mask * torch.arange(1, key_mask.shape[1] + 1, device=device)).amax(1)
        last = (-(-length // self.block) - 1).clamp(min=0)
        return torch.stack([torch.zeros_like(last), last], 1)

    def _visible(self, index: Tensor, seen: Tensor, columns: int, key_mask: Tensor | None) -> Tensor:
        """Write which blocks see which: (batch or 1, heads, rows, columns)."""
        visible = torch.zeros(*index.shape[:3], columns, dtype=torch.int32, device=index.device)
        visible = visible.scatter_add(3, index, seen.to(torch.int32)) > 0
        if self.slot.pattern is not Pattern.NS:
            return visible
        t = torch.arange(visible.shape[2], device=index.device)
        rows = (t == self._ends(columns, key_mask, index.device).unsqueeze(2)).any(1)
        return visible | rows[:, None, :, None]

    def _gathered(
        self, q: Tensor, k: Tensor, v: Tensor, index: Tensor, seen: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """Return (batch, heads, rows, block, size): each block's softmax over the blocks at `index`."""
        batch, heads, m, _ = k.shape
        block, columns, (rows, places) = self.block, -(-m // self.block), index.shape[2:]
        tail = columns * block - m
        real = torch.ones(1, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        real = F.pad(real, (0, tail)).reshape(-1, columns, block)
        index = index.expand(batch, -1, -1, -1)
        real = real.expand(batch, -1, -1)[torch.arange(batch, device=q.device)[:, None, None, None], index]
        seen = (seen.unsqueeze(4) & real).flatten(3).unsqueeze(3)
        if self._causal_self:  # the second place is its own block
            own = torch.ones(block, places, block, dtype=torch.bool, device=q.device)
            own[:, 1] = own[:, 1].tril()
            seen = seen & own.flatten(1)
        row = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1) * columns + index
        tables = (F.pad(t, (0, 0, 0, tail)).reshape(batch * heads * columns, -1) for t in (k, v))
        k, v = (F.embedding(row, t).view(batch, heads, rows, places * block, -1) for t in tables)
        q = F.pad(q, (0, 0, 0, rows * block - q.shape[2])).reshape(batch, heads, rows, block, -1)
        return masked_softmax(q @ k.transpose(-1, -2), seen) @ v

    def _with_global_rows(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """Put the first and the last block, which see everything, in the place of what they have seen."""
        batch, heads, rows, block, size = out.shape
        q = F.pad(q, (0, 0, 0, rows * block - q.shape[2])).reshape(batch, heads, rows, -1)
        q = q.gather(2, ends[:, None, :, None].expand(-1, heads, -1, q.shape[3])).view(batch, heads, 2 * block, -1)
        seen = None if key_mask is None else key_mask[:, None, None, :]
        top = (masked_softmax(q @ k.transpose(-1, -2), seen) @ v).view(batch, heads, 2, block * size)
        # a sample of one block has its last where its first is: that one is dropped
        where = torch.stack([ends[:, 0], ends[:, 1].where(ends[:, 1] > 0, rows)], 1)
        room = F.pad(out.flatten(3), (0, 0, 0, 1))
        room = room.scatter(2, where[:, None, :, None].expand(-1, heads, -1, block * size), top)
        return room[:, :, :rows].unflatten(3, (block, size))
