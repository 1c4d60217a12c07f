"""Longformer (Beltagy et al., arXiv 2004.05150): each query attends to a window of keys, and to a few global keys.

The first `globals` tokens are global (a class token, a question). A global query attends to every key, through
queries, keys and values of projections of their own, which the mechanism computes from the tokens x and y (section
3.1). The other queries attend to the keys of their window and to the global keys, as the layer projects them. `window`
counts the keys on one side: the paper's w of 512 is 256 here.

- NS is the paper's.
- CS is its character model's: the window lies in the past, and a global query attends to the tokens up to its own.
- NC and CC: the window of query i is centred on key floor(i M / N), for N queries and M keys of the slot, so that it
  depends on no other query. The first target tokens are global queries, the first source tokens global keys. The paper
  leaves cross attention full.
- Dilated windows are those of `local`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.centred_window import CentredWindow, centred_window_softmax
from cab.ops.ragged import gather_tokens, real_first
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax


class Longformer(Mechanism):
    """Every query attends to the keys near it and to the global keys; a global query attends to all keys."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2004.05150"
    parity = "transformers (LongformerSelfAttention)"
    cost = "O(n (w + g) d)"
    inputs = {"x": ("queries", "real", "width"), "y": ("keys", "real", "width")}
    accepts = {"window": ">= 1", "block": ">= 1"}
    checks = ({"window": 3, "globals": 2, "block": 4}, {"window": 8, "globals": 3, "block": 3})
    limits = ({"params": {"window": 64, "globals": 0}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, window: int = 256, globals: int = 1, block: int = 128) -> None:
        super().__init__(slot)
        if not 0 <= globals <= min(slot.max_len, slot.keys):
            raise ValueError(f"globals={globals}: from 0 to the {min(slot.max_len, slot.keys)} tokens of the slot")
        self.globals, self.block = globals, block
        self.window = CentredWindow.of(slot, min(window, max(slot.max_len, slot.keys)), globals)
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
        """Compute the windows in blocks of queries, then the rows of the global queries."""
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
        """Compute the windows with PyTorch's fused kernels."""
        return self._in_blocks(fused_attention, q, k, v, key_mask, x, y)

    def _in_blocks(
        self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, x: Tensor, y: Tensor
    ) -> Tensor:
        out = centred_window_softmax(q, k, v, self.window, self.block, key_mask, attention)
        if not self.globals:
            return out
        x = x[:, : self.globals]
        if self.window.causal:  # a global query attends to no later key, so to global keys alone
            y, key_mask = y[:, : self.globals], None if key_mask is None else key_mask[:, : self.globals]
        position = torch.arange(x.shape[1], device=x.device)
        global_rows = self._global_rows(x, *self._global_keys_and_values(y), key_mask, position)
        return torch.cat([global_rows, out[:, :, x.shape[1] :]], 2)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, x: Tensor, y: Tensor) -> Tensor:
        """Compute all scores, of which a query keeps those of its window and of the global keys (section 3.1)."""
        slot, i = self.slot, torch.arange(q.shape[2], device=q.device)[:, None]
        j = torch.arange(k.shape[2], device=q.device)
        allowed = j <= i if slot.pattern is Pattern.CS else torch.ones_like(j - i, dtype=torch.bool)
        centre = i * slot.keys // slot.max_len if slot.pattern.cross else i
        seen = allowed & (((j - centre).abs() <= self.window.before) | (j < self.globals))

        def attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
            weights = (q @ k.mT / slot.dim**0.5).exp() * seen
            total = weights.sum(-1, keepdim=True)
            return weights / total.where(total > 0, 1.0) @ v  # a window may lie behind the last key

        out = attention(q, k, v, seen)
        if not self.globals:
            return out
        layers = (self.to_q, x), (self.to_k, y), (self.to_v, y)
        projected = (layer(tokens).unflatten(2, (slot.heads, -1)).transpose(1, 2) for layer, tokens in layers)
        return torch.where(i < self.globals, attention(*projected, allowed), out)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the pairs of query and key that are computed, and the projections and rows of the global queries."""
        return self._flops(n, m, self.window.pairs(n, m, self.block))

    def flops_needed(self, n: int, m: int) -> float:
        """Count only the pairs that are seen, and one row for a global query."""
        pairs = 0
        for i in range(min(self.globals, n), n):
            centre = i * self.slot.keys // self.slot.max_len if self.slot.pattern.cross else i
            first = max(0, centre - self.window.before)
            pairs += max(0, min(m, centre + self.window.after + 1) - first) + min(self.globals, first, m)
        return self._flops(n, m, pairs)

    def init_state(
        self, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, x: Tensor | None = None, y: Tensor
    ) -> Any:
        """Return the caches of the source (CC), or of the last and of the global keys (CS); and the tokens so far."""
        count = torch.zeros(k.shape[0], dtype=torch.long, device=k.device)
        global_cache = self._global_keys_and_values(y) if self.globals else (k[:, :, :0], v[:, :, :0])
        if self.slot.pattern.cross:
            real = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
            return k, v, real if key_mask is None else key_mask, global_cache, count
        reach = self.window.before
        real = torch.zeros(k.shape[0], reach, dtype=torch.bool, device=k.device)
        # of the global tokens: keys and values as the layer projects them, and by the global projections
        global_cache = tuple(F.pad(t, (0, 0, 0, self.globals)) for t in (k, v, *global_cache))
        return F.pad(k, (0, 0, reach, 0)), F.pad(v, (0, 0, reach, 0)), real, global_cache, count

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
        """Attend from the new tokens, a block at a time; each row's real tokens come first, so that distances hold."""
        order = inverse = None
        real = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
        if key_mask is not None:
            order, inverse = real_first(key_mask)
            real = key_mask.gather(1, order)
            x = x.gather(1, order.unsqueeze(2).expand_as(x))
            y = None if y is None else y.gather(1, order.unsqueeze(2).expand_as(y))
            q, k, v = (None if t is None else gather_tokens(t, order) for t in (q, k, v))
        rows = []
        for start in range(0, q.shape[2], self.block):
            part = slice(start, start + self.block)
            if k is None or v is None or y is None:
                out, state = self._step_cross(state, q[:, :, part], real[:, part], x[:, part])
            else:
                tensors = (t[:, :, part] for t in (q, k, v))
                out, state = self._step_self(state, *tensors, real[:, part], x[:, part], y[:, part])
            rows.append(out)
        out = torch.cat(rows, 2)
        return out if inverse is None else gather_tokens(out, inverse), state

    def _step_cross(self, state: Any, q: Tensor, new_real: Tensor, x: Tensor) -> tuple[Tensor, Any]:
        keys, values, real, global_cache, count = state
        position = count.unsqueeze(1) + torch.arange(q.shape[2], device=q.device)
        key = torch.arange(keys.shape[2], device=q.device)
        seen = self.window.sees(self.window.centres(position).unsqueeze(2), key)
        out = self._attention(q, keys, values, (seen & real.unsqueeze(1)).unsqueeze(1))
        if self.globals:
            global_rows = self._global_rows(x, *global_cache, real, None)
            out = torch.where((position < self.globals)[:, None, :, None], global_rows, out)
        return out, (keys, values, real, global_cache, count + new_real.sum(1))

    def _step_self(
        self, state: Any, q: Tensor, k: Tensor, v: Tensor, new_real: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Any]:
        keys, values, real, global_cache, count = state
        reach, c = self.window.before, q.shape[2]
        keys, values, real = torch.cat([keys, k], 2), torch.cat([values, v], 2), torch.cat([real, new_real], 1)
        position = count.unsqueeze(1) + torch.arange(c, device=q.device)  # (batch, c)
        key = count.unsqueeze(1) - reach + torch.arange(reach + c, device=q.device)
        seen = self.window.sees(position.unsqueeze(2), key.unsqueeze(1)) & (real & (key >= self.globals)).unsqueeze(1)
        if self.globals:
            # tokens that are masked or not global get one index too many, which is cut off
            index = position.where(new_real & (position < self.globals), self.globals)
            new = (k, v, *self._global_keys_and_values(y))
            global_cache = tuple(_scatter_tokens(t, new_t, index) for t, new_t in zip(global_cache, new, strict=True))
            all_k, all_v = torch.cat([keys, global_cache[0]], 2), torch.cat([values, global_cache[1]], 2)
            global_seen = torch.arange(self.globals, device=q.device) <= position.unsqueeze(2)
            out = self._attention(q, all_k, all_v, torch.cat([seen, global_seen], 2).unsqueeze(1))
            global_rows = self._global_rows(x, global_cache[2], global_cache[3], None, position)
            out = torch.where((position < self.globals)[:, None, :, None], global_rows, out)
        else:
            out = self._attention(q, keys, values, seen.unsqueeze(1))
        last = torch.arange(reach, device=q.device) + new_real.sum(1, keepdim=True)
        keys, values, real = gather_tokens(keys, last), gather_tokens(values, last), real.gather(1, last)
        return out, (keys, values, real, global_cache, count + new_real.sum(1))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen) @ v

    def _global_keys_and_values(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Project the tokens y (batch, m, ·) for the global queries: (batch, heads, m, ·) each."""
        heads = (self.slot.heads, -1)
        return self.to_k(y).unflatten(2, heads).transpose(1, 2), self.to_v(y).unflatten(2, heads).transpose(1, 2)

    def _global_rows(self, x: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, position: Tensor | None) -> Tensor:
        """Attend from the tokens x to all keys by the global projections, in CS to those up to each `position`."""
        q = self.to_q(x).unflatten(2, (self.slot.heads, -1)).transpose(1, 2)
        seen = None if key_mask is None else key_mask[:, None, None, :]
        if self.window.causal and position is not None:
            past = torch.arange(k.shape[2], device=x.device) <= position.unsqueeze(-1)
            past = past if past.dim() == 2 else past.unsqueeze(1)
            seen = past if seen is None else seen & past
        return self._attention(q, k, v, seen)

    def _flops(self, n: int, m: int, pairs: int) -> float:
        queries = min(self.globals, n)
        keys = (queries if self.window.causal else m) if queries else 0
        size = self.slot.dim + self.slot.values
        projections = self.slot.tokens * (queries * self.slot.dim + keys * size)
        return 2.0 * self.slot.heads * ((pairs + queries * keys) * size + projections)


def _scatter_tokens(t: Tensor, new: Tensor, index: Tensor) -> Tensor:
    """Write new (batch, heads, c, size) at index (batch, c) of t; an index of t's length is cut off."""
    padded = F.pad(t, (0, 0, 0, 1))
    return padded.scatter(2, index[:, None, :, None].expand_as(new), new)[:, :, :-1]
