"""Longformer (Beltagy et al., arXiv 2004.05150): a window for every query, and a few global positions.

Query i sees the keys of its window and the global keys. The first `globals` tokens are global (a class token, a
question): they see every key, through queries, keys and values of their own projections, which the mechanism computes
from the tokens x and y (section 3.1); the others see the global keys as the layer projects them. `window` counts the
keys on one side: the paper's w of 512 is 256 here.

- NS is the paper's; CS its character model's, with a window of the past, and global tokens that see their past.
- In NC and CC query i has its window around the key floor(i M / N), for N queries and M keys of the slot, which no
  other query moves; the first target tokens are global queries and the first source tokens global keys. The paper
  leaves cross attention full.
- Dilated windows are those of `local`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism
from cab.ops.centred_window import CentredWindow, centred_window_softmax
from cab.ops.ragged import gather_tokens, real_first
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax


class Longformer(Mechanism):
    """Every query weighs the keys near it and the global ones; global queries weigh all."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2004.05150"
    cost = "O(n (w + g) d)"
    inputs = {"x": ("queries", "real", "width"), "y": ("keys", "real", "width")}
    checks = ({"window": 3, "globals": 2, "block": 4}, {"window": 8, "globals": 3, "block": 3})
    limits = ({"params": {"window": 64, "globals": 0}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, window: int = 256, globals: int = 1, block: int = 128) -> None:
        super().__init__(slot)
        if window < 1:
            raise ValueError(f"window={window}: at least 1 key on a side is needed")
        if not 0 <= globals <= min(slot.max_len, slot.keys):
            raise ValueError(f"globals={globals}: from 0 to the {min(slot.max_len, slot.keys)} tokens of the slot")
        if block < 1:
            raise ValueError(f"block={block}: at least 1 query is needed")
        self.globals, self.block = globals, block
        self.near = CentredWindow.of(slot, min(window, max(slot.max_len, slot.keys)), globals)
        if globals:
            self.to_q = nn.Linear(slot.tokens, slot.heads * slot.dim)
            self.to_k = nn.Linear(slot.tokens, slot.heads * slot.dim)
            self.to_v = nn.Linear(slot.tokens, slot.heads * slot.values)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Work in blocks of queries; put the rows of the global queries in front."""
        return self._in_blocks(explicit_attention, q, k, v, key_mask, x, y)

    def attend_sdpa(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Compute the blocks with PyTorch's fused kernels."""
        return self._in_blocks(fused_attention, q, k, v, key_mask, x, y)

    def _in_blocks(
        self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, x: Tensor, y: Tensor
    ) -> Tensor:
        out = centred_window_softmax(q, k, v, self.near, self.block, key_mask, attention)
        if not self.globals:
            return out
        x = x[:, : self.globals]
        if self.near.causal:  # what they see is global itself
            y, key_mask = y[:, : self.globals], None if key_mask is None else key_mask[:, : self.globals]
        top = self._global_rows(x, *self._projected(y), key_mask, torch.arange(x.shape[1], device=x.device))
        return torch.cat([top, out[:, :, x.shape[1] :]], 2)

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Write every weight, head by head, and cut what a query does not see."""
        n, m, slot = q.shape[2], k.shape[2], self.slot
        i, j = torch.arange(n, device=q.device)[:, None], torch.arange(m, device=q.device)[None, :]
        place = i * slot.keys // slot.max_len if slot.pattern.cross else i
        seen = ((j - place).abs() <= self.near.before) | (j < self.globals)
        real = torch.ones(q.shape[0], m, device=q.device, dtype=torch.bool) if key_mask is None else key_mask
        out = []
        for head in range(slot.heads):
            rows = (q[:, head], k[:, head], v[:, head], seen)
            if self.globals:
                own = (self.to_q(x), self.to_k(y), self.to_v(y))
                sizes = (slot.dim, slot.dim, slot.values)
                top = tuple(t.unflatten(2, (slot.heads, size))[:, :, head] for t, size in zip(own, sizes, strict=True))
                rows, top = (tuple(rows), (*top, torch.ones_like(seen)))
                is_global = i < self.globals
                out.append(torch.where(is_global, self._plainly(*top, real), self._plainly(*rows, real)))
            else:
                out.append(self._plainly(*rows, real))
        return torch.stack(out, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores and sums over the pairs that are computed; projections and rows of the global queries."""
        return self._flops(n, m, self.near.pairs(n, m, self.block))

    def flops_needed(self, n: int, m: int) -> float:
        """The same with the pairs that are seen alone, and no other row for a global query."""
        pairs = 0
        for i in range(min(self.globals, n), n):
            place = i * self.slot.keys // self.slot.max_len if self.slot.pattern.cross else i
            first = max(0, place - self.near.before)
            pairs += max(0, min(m, place + self.near.after + 1) - first) + min(self.globals, first, m)
        return self._flops(n, m, pairs)

    def init_state(
        self, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, x: Tensor | None = None, y: Tensor
    ) -> Any:
        """Keep the source (CC), or room for the last and the global keys (CS); count the tokens of each row."""
        count = torch.zeros(k.shape[0], dtype=torch.long, device=k.device)
        top = self._projected(y) if self.globals else (k[:, :, :0], v[:, :, :0])
        if self.slot.pattern.cross:
            real = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
            return k, v, real if key_mask is None else key_mask, top, count
        past = (0, 0, self.near.before, 0)
        real = torch.zeros(k.shape[0], self.near.before, dtype=torch.bool, device=k.device)
        room = (0, 0, 0, self.globals)
        return F.pad(k, past), F.pad(v, past), real, tuple(F.pad(t, room) for t in (k, v, *top)), count

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        *,
        x: Tensor,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Take the new tokens, a block at a time; real ones first, so that distances hold."""
        order = back = None
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
        if key_mask is not None:
            order, back = real_first(key_mask)
            new = key_mask.gather(1, order)
            x = x.gather(1, order.unsqueeze(2).expand_as(x))
            y = None if y is None else y.gather(1, order.unsqueeze(2).expand_as(y))
            q, k, v = (None if t is None else gather_tokens(t, order) for t in (q, k, v))
        rows = []
        for start in range(0, q.shape[2], self.block):
            part = slice(start, start + self.block)
            k_part, v_part, y_part = (
                t if t is None else t[:, :, part] for t in (k, v, None if y is None else y[:, None])
            )
            read = self._read_source if k_part is None else self._read_past
            out, state = read(state, q[:, :, part], k_part, v_part, new[:, part], x[:, part], y_part)
            rows.append(out)
        out = torch.cat(rows, 2)
        return out if back is None else gather_tokens(out, back), state

    def _read_source(self, state: Any, q: Tensor, k: None, v: None, new: Tensor, x: Tensor, y: None) -> Any:
        keys, values, real, top, count = state
        i = count.unsqueeze(1) + torch.arange(q.shape[2], device=q.device)
        seen = self.near.sees(self.near.centres(i).unsqueeze(2), torch.arange(keys.shape[2], device=q.device))
        out = self._weighed(q, keys, values, (seen & real.unsqueeze(1)).unsqueeze(1))
        if self.globals:
            own = self._global_rows(x, *top, real, None)
            out = torch.where((i < self.globals)[:, None, :, None], own, out)
        return out, (keys, values, real, top, count + new.sum(1))

    def _read_past(self, state: Any, q: Tensor, k: Tensor, v: Tensor, new: Tensor, x: Tensor, y: Tensor) -> Any:
        keys, values, real, first, count = state
        reach, c = self.near.before, q.shape[2]
        keys, values, real = torch.cat([keys, k], 2), torch.cat([values, v], 2), torch.cat([real, new], 1)
        i = count.unsqueeze(1) + torch.arange(c, device=q.device)  # (batch, c)
        key = count.unsqueeze(1) - reach + torch.arange(reach + c, device=q.device)
        seen = self.near.sees(i.unsqueeze(2), key.unsqueeze(1)) & (real & (key >= self.globals)).unsqueeze(1)
        if self.globals:
            # what is masked, or comes after the global tokens, goes to a place that is then dropped
            where = i.where(new & (i < self.globals), self.globals)
            given = (k, v, *self._projected(y[:, 0]))
            first = tuple(_put(t, new_t, where) for t, new_t in zip(first, given, strict=True))
            far = torch.arange(self.globals, device=q.device) <= i.unsqueeze(2)
            wide_k, wide_v = torch.cat([keys, first[0]], 2), torch.cat([values, first[1]], 2)
            out = self._weighed(q, wide_k, wide_v, torch.cat([seen, far], 2).unsqueeze(1))
            own = self._global_rows(x, first[2], first[3], None, i)
            out = torch.where((i < self.globals)[:, None, :, None], own, out)
        else:
            out = self._weighed(q, keys, values, seen.unsqueeze(1))
        last = torch.arange(reach, device=q.device) + new.sum(1, keepdim=True)
        state = gather_tokens(keys, last), gather_tokens(values, last), real.gather(1, last), first, count + new.sum(1)
        return out, state

    def _weighed(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen) @ v

    def _projected(self, y: Tensor) -> tuple[Tensor, Tensor]:
        heads = (self.slot.heads, -1)
        return self.to_k(y).unflatten(2, heads).transpose(1, 2), self.to_v(y).unflatten(2, heads).transpose(1, 2)

    def _global_rows(self, x: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, place: Tensor | None) -> Tensor:
        """Let the tokens x, at their places, see all keys (causal: up to their own), by the global projections."""
        q = self.to_q(x).unflatten(2, (self.slot.heads, -1)).transpose(1, 2)
        seen = None if key_mask is None else key_mask[:, None, None, :]
        if self.near.causal and place is not None:
            past = torch.arange(k.shape[2], device=x.device) <= place.unsqueeze(-1)
            past = past if past.dim() == 2 else past.unsqueeze(1)
            seen = past if seen is None else seen & past
        return self._weighed(q, k, v, seen)

    def _plainly(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, real: Tensor) -> Tensor:
        weights = (torch.einsum("bid,bjd->bij", q, k) / self.slot.dim**0.5).exp() * (seen & real[:, None, :])
        weights = weights.tril() if self.near.causal else weights
        total = weights.sum(-1, keepdim=True)
        return (weights / total.where(total > 0, 1.0)) @ v

    def _flops(self, n: int, m: int, pairs: int) -> float:
        rows = min(self.globals, n)
        keys = (rows if self.near.causal else m) if rows else 0
        size = self.slot.dim + self.slot.values
        projected = self.slot.tokens * (rows * self.slot.dim + keys * size)
        return 2.0 * self.slot.heads * ((pairs + rows * keys) * size + projected)


def _put(t: Tensor, new: Tensor, where: Tensor) -> Tensor:
    """Write new (batch, heads, c, size) to the places `where` (batch, c) of t; the place after its last is dropped."""
    room = F.pad(t, (0, 0, 0, 1))
    return room.scatter(2, where[:, None, :, None].expand_as(new), new)[:, :, :-1]
