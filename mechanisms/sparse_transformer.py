"""Sparse Transformer (Child et al., arXiv 1904.10509): two sparse patterns, whose two parts join any two tokens.

`form` fixed (section 4.3, for text): query i sees the keys of its own stretch of `stride` tokens, and of every stretch
the last `summary` tokens. `form` strided (for images): the `stride` keys nearest to it, and those whose distance is a
multiple of `stride`. Every head sees the union of both parts (the paper's merged head).

- CS is the paper's. NS looks both ways, for encoders.
- In NC and CC query i stands at the key floor(i M / N), for N queries and M keys of the slot, and sees what that place
  sees in NS: an extension, which no other query moves.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache
from cab.ops.softmax import masked_softmax

FORMS = ("fixed", "strided")


class SparseTransformer(Mechanism):
    """Every query weighs the keys near it, and a regular few of all others."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 1904.10509"
    cost = "O(n (l + c m / l) d)"
    checks = (
        {"form": "fixed", "stride": 4, "summary": 1},
        {"form": "strided", "stride": 4},
        {"form": "fixed", "stride": 7, "summary": 3},
        {"form": "strided", "stride": 3},
    )
    limits = (
        {"params": {"form": "fixed", "stride": 64}, "equals": "softmax"},
        {"params": {"form": "strided", "stride": 64}, "equals": "softmax"},
        {"params": {"form": "fixed", "stride": 4, "summary": 4}, "equals": "softmax"},
        {"params": {"form": "strided", "stride": 1}, "equals": "softmax"},
    )

    def __init__(self, slot: Any, *, form: str = "fixed", stride: int = 128, summary: int = 32) -> None:
        super().__init__(slot)
        if form not in FORMS:
            raise ValueError(f"form={form!r}: one of {', '.join(FORMS)}")
        if stride < 1:
            raise ValueError(f"stride={stride}: at least 1 token is needed")
        if form == "fixed" and not 1 <= summary <= stride:
            raise ValueError(f"summary={summary}: from 1 to the {stride} tokens of a stretch")
        self.form, self.stride, self.summary = form, stride, summary

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Work in blocks of `stride` queries: the keys near a block, and the regular ones."""
        n, m, stride = q.shape[2], k.shape[2], self.stride
        q, width, far = q * self.slot.dim**-0.5, self._width(), self._far(m)
        if width + far >= m:  # blocks would compute more than everything
            key = torch.arange(m, device=q.device)
            near, regular = self._seen(self._place(torch.arange(n, device=q.device)).unsqueeze(1), key)
            seen = near | regular if key_mask is None else (near | regular) & key_mask[:, None, None, :]
            return masked_softmax(q @ k.transpose(-1, -2), seen) @ v
        blocks, stretches = -(-n // stride), -(-m // stride)
        q = F.pad(q, (0, 0, 0, blocks * stride - n)).unflatten(2, (blocks, stride))
        place = self._place(torch.arange(blocks * stride, device=q.device)).view(blocks, stride, 1)
        key = self._first(place[:, :1]) + torch.arange(width, device=q.device)
        index = key.clamp(0, m - 1).flatten()
        near_k, near_v = (t.index_select(2, index).unflatten(2, (blocks, width)) for t in (k, v))
        real = torch.ones(1, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        seen = self._seen(place, key)[0] & (key >= 0) & (key < m)
        seen = seen & real.index_select(1, index).view(-1, 1, blocks, 1, width)
        tail = stretches * stride - m
        k, v = (F.pad(t, (0, 0, 0, tail)).unflatten(2, (stretches, stride)) for t in (k, v))
        real = F.pad(real, (0, tail)).unflatten(1, (stretches, stride))
        regular = self._summaries if self.form == "fixed" else self._columns
        scores, far_seen, read = regular(q, k, v, real, place)
        scores = torch.cat([q @ near_k.transpose(-1, -2), scores], 4)
        seen = torch.cat([t.expand(real.shape[0], 1, blocks, stride, -1) for t in (seen, far_seen)], 4)
        weights = masked_softmax(scores, seen)
        out = weights[..., :width] @ near_v + read(weights[..., width:])
        return out.flatten(2, 3)[:, :, :n]

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write every weight, head by head, and cut what a query does not see."""
        i, j = torch.arange(q.shape[2], device=q.device)[:, None], torch.arange(k.shape[2], device=q.device)[None, :]
        i = i * self.slot.keys // self.slot.max_len
        if self.form == "fixed":
            seen = (i // self.stride == j // self.stride) | (j % self.stride >= self.stride - self.summary)
        else:
            seen = ((i - j).abs() < self.stride) | ((i - j) % self.stride == 0)
        seen = seen.tril() if self.slot.pattern is Pattern.CS else seen
        seen = seen[None] if key_mask is None else seen[None] & key_mask[:, None, :]
        out = []
        for head in range(self.slot.heads):
            weights = (torch.einsum("bid,bjd->bij", q[:, head], k[:, head]) / self.slot.dim**0.5).exp() * seen
            total = weights.sum(-1, keepdim=True)
            out.append((weights / total.where(total > 0, 1.0)) @ v[:, head])
        return torch.stack(out, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores and sums over the pairs that are computed."""
        keys = self._width() + self._far(m)
        pairs = n * m if keys >= m else -(-n // self.stride) * self.stride * keys
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """Scores and sums over the pairs that are seen alone."""
        cross, causal = self.slot.pattern.cross, self.slot.pattern is Pattern.CS
        places = (i * self.slot.keys // self.slot.max_len if cross else i for i in range(n))
        pairs = sum(self._reached(place, place + 1 if causal else m) for place in places)
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def _reached(self, place: int, m: int) -> int:
        """Count the keys that a query at `place` sees among the first m."""
        whole, rest = divmod(m, self.stride)
        if self.form == "fixed":
            own, tail = place // self.stride, max(0, rest - (self.stride - self.summary))
            if own == whole:
                return rest + whole * self.summary
            return whole * self.summary + tail + (self.stride - self.summary if own < whole else 0)
        near = min(m, place + self.stride) - max(0, place - self.stride + 1)
        before = place // self.stride - max(1, -(-(place - m + 1) // self.stride)) + 1
        return max(0, near) + max(0, before) + max(0, (m - 1 - place) // self.stride)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep the source and count each row's tokens (CC), or begin with no token (CS).

        `strided` may read any token again, so it keeps all; `fixed` keeps the summaries, the last `stride` tokens, and
        which of all were real, whose number says how many summaries there are at most.
        """
        if self.slot.pattern.cross:
            real = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
            return k, v, real if key_mask is None else key_mask, empty_cache(k)[1]
        if self.form == "strided":
            return empty_cache(k, v)
        return (k, v), (k, v), k.new_zeros(k.shape[0], 0, dtype=torch.bool)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Look up by its position what each token sees, a block of tokens at a time."""
        rows = []
        for start in range(0, q.shape[2], self.stride):
            part = slice(start, start + self.stride)
            ours = q[:, :, part] * self.slot.dim**-0.5
            new = None if key_mask is None else key_mask[:, part]
            if k is not None and v is not None and self.form == "fixed":
                out, state = self._step_fixed(state, ours, k[:, :, part], v[:, :, part], new)
                rows.append(out)
                continue
            if k is None or v is None:
                keys, values, real, count = state
                new = torch.ones_like(q[:, 0, part, 0], dtype=torch.bool) if new is None else new
                place = self._place(count.unsqueeze(1) + new.cumsum(1) - 1)
                state, real = (keys, values, real, count + new.sum(1)), real.unsqueeze(1)
            else:
                state, place = extend_cache(state, (k[:, :, part], v[:, :, part]), new)
                keys, values = state[0]
                real = torch.ones(1, 1, keys.shape[2], dtype=torch.bool, device=q.device)
            near, regular = self._seen(place.unsqueeze(2), torch.arange(keys.shape[2], device=q.device))
            scores = ours @ keys.transpose(-1, -2)
            rows.append(masked_softmax(scores, ((near | regular) & real).unsqueeze(1)) @ values)
        return torch.cat(rows, 2), state

    def _step_fixed(self, state: Any, q: Tensor, k: Tensor, v: Tensor, new: Tensor | None) -> tuple[Tensor, Any]:
        """Read the summaries, the tokens of before that a stretch may still see, and the new ones; keep what stays."""
        summaries, latest, real = state
        new = torch.ones_like(q[:, 0, :, 0], dtype=torch.bool) if new is None else new
        before = real.sum(1, keepdim=True)
        place, real = before + new.cumsum(1) - 1, torch.cat([real, new], 1)
        # a summary lies behind those of the stretches before
        stretches, rest = divmod(real.shape[1], self.stride)
        last = self.stride - self.summary
        size = stretches * self.summary + max(rest - last, 0)
        slot = place % self.stride
        where = (place // self.stride * self.summary + slot - last).where(new & (slot >= last), size)
        summaries = tuple(_written(t, x, where, size) for t, x in zip(summaries, (k, v), strict=True))
        index = torch.arange(size, device=q.device)
        ends = index // self.summary * self.stride + last + index % self.summary
        # in slot s lies the newest token that came before at s, s + stride, ...; below 0 where there was none
        held = before - 1 - (before - 1 - torch.arange(latest[0].shape[2], device=q.device)) % self.stride
        own = torch.cat([held, place.where(new, -1)], 1).unsqueeze(1)
        place = place.clamp(min=0).unsqueeze(2)
        seen = torch.cat([self._seen(place, ends)[1], self._seen(place, own)[0]], 2).unsqueeze(1)
        keys, values = (torch.cat(of, 2) for of in zip(summaries, latest, (k, v), strict=True))
        out = masked_softmax(q @ keys.transpose(-1, -2), seen) @ values
        size = min(real.shape[1], self.stride)
        where = slot.where(new, size)
        return out, (summaries, tuple(_written(t, x, where, size) for t, x in zip(latest, (k, v), strict=True)), real)

    def _place(self, index: Tensor) -> Tensor:
        return index * self.slot.keys // self.slot.max_len

    def _seen(self, place: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a query at `place` sees the key as a near one, and whether as a regular one that is not near."""
        ahead = key - place
        if self.form == "fixed":
            near = torch.div(key, self.stride, rounding_mode="floor") == place // self.stride
            regular = key % self.stride >= self.stride - self.summary
        else:
            near = ahead.abs() < self.stride
            regular = ahead % self.stride == 0
        if self.slot.pattern is Pattern.CS:
            near, regular = near & (ahead <= 0), regular & (ahead <= 0)
        return near, regular & ~near

    def _first(self, place: Tensor) -> Tensor:
        """Return the first key near a block whose first query is at `place`."""
        return place // self.stride * self.stride if self.form == "fixed" else place - self.stride + 1

    def _width(self) -> int:
        """Count the keys from the first near a block to the last."""
        stride, slot = self.stride, self.slot
        if not slot.pattern.cross:  # blocks of queries are stretches of keys
            if self.form == "fixed":
                return stride
            return 2 * stride - 1 if slot.pattern is Pattern.CS else 3 * stride - 2
        span = -(-(stride - 1) * slot.keys // slot.max_len) + 1
        return span + 2 * (stride - 1)

    def _far(self, m: int) -> int:
        """Count the regular keys that each query is scored with."""
        return -(-m // self.stride) * (self.summary if self.form == "fixed" else 1)

    def _summaries(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Score the last tokens of each stretch, the same for all queries: scores, which are seen, how to read them."""
        last = slice(self.stride - self.summary, None)
        k, v = (t[:, :, :, last].flatten(2, 3).unsqueeze(2) for t in (k, v))
        key = torch.arange(real.shape[1] * self.stride, device=q.device).view(-1, self.stride)[:, last].flatten()
        seen = self._seen(place, key)[1] & real[:, :, last].flatten(1)[:, None, None, None, :]
        return q @ k.transpose(-1, -2), seen, lambda weights: weights @ v

    def _columns(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Score the keys at multiples of `stride` from a query: its column, where stretches are rows."""
        key = torch.arange(real.shape[1], device=q.device) * self.stride + place % self.stride
        seen = self._seen(place, key)[1]
        k, v = (t.transpose(2, 3) for t in (k, v))  # (batch, heads, stride, stretches, size)
        real = real.transpose(1, 2)
        if not self.slot.pattern.cross:  # in a block of queries, each stands in the column of its own
            scores = (q.transpose(2, 3) @ k.transpose(-1, -2)).transpose(2, 3)
            return scores, seen & real[:, None, None], lambda w: (w.transpose(2, 3) @ v).transpose(2, 3)
        column = (place % self.stride).flatten()
        shape = place.shape[:2]
        k, v = (t.index_select(2, column).unflatten(2, shape) for t in (k, v))
        seen = seen & real.index_select(1, column).unflatten(1, shape).unsqueeze(1)
        scores = (q.unsqueeze(-2) @ k.transpose(-1, -2)).squeeze(-2)
        return scores, seen, lambda w: (w.unsqueeze(-2) @ v).squeeze(-2)


def _written(t: Tensor, new: Tensor, where: Tensor, size: int) -> Tensor:
    """Lengthen t (batch, heads, kept, ·) to `size` and write the new tokens in; one at the place `size` is dropped."""
    room = F.pad(t, (0, 0, 0, size + 1 - t.shape[2]))
    return room.scatter(2, where[:, None, :, None].expand_as(new), new)[:, :, :-1]
