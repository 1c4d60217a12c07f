"""Sparse Transformer (Child et al., arXiv 1904.10509): softmax over near keys and over a regular subset.

`form` (section 4.3) says which keys j query i sees, with the stride l and c `summary` keys:

- fixed, for text: those of its own segment, floor(j / l) = floor(i / l), and the last c of every segment,
  j mod l >= l - c.
- strided, for images: |i - j| < l, and (i - j) mod l = 0.

Every head sees the union of both parts (the paper's merged head).

- CS is the paper's, with j <= i. NS sees keys before and after the query, for encoders.
- In NC and CC query i has the position floor(i M / N) in the source, for N queries and M keys of the slot, and sees the
  keys that this position sees in NS. It does not depend on the other queries.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache
from cab.ops.softmax import masked_softmax

FORMS = ("fixed", "strided")


class SparseTransformer(Mechanism):
    """Every query weighs the keys near it, and a regular subset of the others."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 1904.10509"
    cost = "O(n (l + c m / l) d)"
    accepts = {"stride": ">= 1"}
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
        if form == "fixed" and not 1 <= summary <= stride:
            raise ValueError(f"summary={summary}: from 1 to the {stride} tokens of a segment")
        self.form, self.stride, self.summary = form, stride, summary

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Attend in blocks of `stride` queries: to the keys near the block, and to the regular ones."""
        n, m, stride = q.shape[2], k.shape[2], self.stride
        q, width, regular_count = q * self.slot.dim**-0.5, self._width(), self._regular_count(m)
        if width + regular_count >= m:  # the dense matrix is smaller than the blocks
            key = torch.arange(m, device=q.device)
            near, regular = self._seen(self._position(torch.arange(n, device=q.device)).unsqueeze(1), key)
            seen = near | regular if key_mask is None else (near | regular) & key_mask[:, None, None, :]
            return masked_softmax(q @ k.transpose(-1, -2), seen) @ v
        blocks, segments = -(-n // stride), -(-m // stride)
        q = F.pad(q, (0, 0, 0, blocks * stride - n)).unflatten(2, (blocks, stride))
        position = self._position(torch.arange(blocks * stride, device=q.device)).view(blocks, stride, 1)
        key = self._first_near_key(position[:, :1]) + torch.arange(width, device=q.device)
        index = key.clamp(0, m - 1).flatten()
        near_k, near_v = (t.index_select(2, index).unflatten(2, (blocks, width)) for t in (k, v))
        real = torch.ones(1, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        near_seen = self._seen(position, key)[0] & (key >= 0) & (key < m)
        near_seen = near_seen & real.index_select(1, index).view(-1, 1, blocks, 1, width)
        tail = segments * stride - m
        k, v = (F.pad(t, (0, 0, 0, tail)).unflatten(2, (segments, stride)) for t in (k, v))
        real = F.pad(real, (0, tail)).unflatten(1, (segments, stride))
        score = self._summaries if self.form == "fixed" else self._columns
        regular_scores, regular_seen, regular_values = score(q, k, v, real, position)
        scores = torch.cat([q @ near_k.transpose(-1, -2), regular_scores], 4)
        seen = torch.cat([t.expand(real.shape[0], 1, blocks, stride, -1) for t in (near_seen, regular_seen)], 4)
        weights = masked_softmax(scores, seen)
        out = weights[..., :width] @ near_v + regular_values(weights[..., width:])
        return out.flatten(2, 3)[:, :, :n]

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute softmax attention over the union of both parts, every exponential written out."""
        i, j = (torch.arange(t.shape[2], device=q.device) for t in (q, k))
        i = i[:, None] * self.slot.keys // self.slot.max_len
        if self.form == "fixed":
            seen = (i // self.stride == j // self.stride) | (j % self.stride >= self.stride - self.summary)
        else:
            seen = ((i - j).abs() < self.stride) | ((i - j) % self.stride == 0)
        weights = (q @ k.mT / self.slot.dim**0.5).exp() * (seen.tril() if self.slot.pattern is Pattern.CS else seen)
        total = weights.sum(-1, keepdim=True)
        return weights / total.where(total > 0, 1.0) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count two products over the pairs that are computed."""
        keys = self._width() + self._regular_count(m)
        pairs = n * m if keys >= m else -(-n // self.stride) * self.stride * keys
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """Count two products over the pairs that are seen."""
        cross, causal = self.slot.pattern.cross, self.slot.pattern is Pattern.CS
        positions = (i * self.slot.keys // self.slot.max_len if cross else i for i in range(n))
        pairs = sum(self._count_seen(position, position + 1 if causal else m) for position in positions)
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def _count_seen(self, position: int, m: int) -> int:
        """Count the keys that a query at `position` sees among the first m."""
        whole_segments, rest = divmod(m, self.stride)
        if self.form == "fixed":
            own_segment, tail = position // self.stride, max(0, rest - (self.stride - self.summary))
            if own_segment == whole_segments:
                return rest + whole_segments * self.summary
            own = self.stride - self.summary if own_segment < whole_segments else 0
            return whole_segments * self.summary + tail + own
        near = min(m, position + self.stride) - max(0, position - self.stride + 1)
        before = position // self.stride - max(1, -(-(position - m + 1) // self.stride)) + 1
        return max(0, near) + max(0, before) + max(0, (m - 1 - position) // self.stride)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the source and a count of queries (CC), or an empty cache (CS).

        In CS `strided` caches all tokens, because a later query may see any of them. `fixed` caches the summaries, the
        last `stride` tokens, and the mask of all tokens, whose length bounds the number of summaries.
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
        """Attend by the position of each token, a block of `stride` tokens at a time."""
        rows = []
        for start in range(0, q.shape[2], self.stride):
            block = slice(start, start + self.stride)
            queries = q[:, :, block] * self.slot.dim**-0.5
            mask = None if key_mask is None else key_mask[:, block]
            if k is not None and v is not None and self.form == "fixed":
                out, state = self._step_fixed(state, queries, k[:, :, block], v[:, :, block], mask)
                rows.append(out)
                continue
            if k is None or v is None:
                keys, values, real, count = state
                mask = torch.ones_like(q[:, 0, block, 0], dtype=torch.bool) if mask is None else mask
                position = self._position(count.unsqueeze(1) + mask.cumsum(1) - 1)
                state, real = (keys, values, real, count + mask.sum(1)), real.unsqueeze(1)
            else:
                state, position = extend_cache(state, (k[:, :, block], v[:, :, block]), mask)
                keys, values = state[0]
                real = torch.ones(1, 1, keys.shape[2], dtype=torch.bool, device=q.device)
            near, regular = self._seen(position.unsqueeze(2), torch.arange(keys.shape[2], device=q.device))
            scores = queries @ keys.transpose(-1, -2)
            rows.append(masked_softmax(scores, ((near | regular) & real).unsqueeze(1)) @ values)
        return torch.cat(rows, 2), state

    def _step_fixed(self, state: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Any]:
        """Attend to the cached summaries, the cached last tokens and the new tokens; write the new ones to the caches.

        The cache of the last tokens is a ring buffer: a token is stored at its position modulo `stride`.
        """
        summaries, latest, real = state
        mask = torch.ones_like(q[:, 0, :, 0], dtype=torch.bool) if mask is None else mask
        count = real.sum(1, keepdim=True)
        position, real = count + mask.cumsum(1) - 1, torch.cat([real, mask], 1)
        segments, rest = divmod(real.shape[1], self.stride)
        first_summary = self.stride - self.summary  # its position in a segment
        size = segments * self.summary + max(rest - first_summary, 0)
        offset = position % self.stride
        target = position // self.stride * self.summary + offset - first_summary
        target = target.where(mask & (offset >= first_summary), size)
        summaries = tuple(_written(t, new, target, size) for t, new in zip(summaries, (k, v), strict=True))
        index = torch.arange(size, device=q.device)
        summary_position = index // self.summary * self.stride + first_summary + index % self.summary
        # entry s of the ring buffer holds the last token at s, s + stride, ...; its position is negative if it is empty
        latest_position = count - 1 - (count - 1 - torch.arange(latest[0].shape[2], device=q.device)) % self.stride
        near_position = torch.cat([latest_position, position.where(mask, -1)], 1).unsqueeze(1)
        position = position.clamp(min=0).unsqueeze(2)
        seen = torch.cat([self._seen(position, summary_position)[1], self._seen(position, near_position)[0]], 2)
        keys, values = (torch.cat(parts, 2) for parts in zip(summaries, latest, (k, v), strict=True))
        out = masked_softmax(q @ keys.transpose(-1, -2), seen.unsqueeze(1)) @ values
        size = min(real.shape[1], self.stride)
        target = offset.where(mask, size)
        latest = tuple(_written(t, new, target, size) for t, new in zip(latest, (k, v), strict=True))
        return out, (summaries, latest, real)

    def _position(self, query: Tensor) -> Tensor:
        """Return the positions of queries among the keys; in self patterns they are the queries' indices."""
        return query * self.slot.keys // self.slot.max_len

    def _seen(self, position: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return which keys a query at `position` sees as near ones, and which as regular ones that are not near."""
        distance = key - position
        if self.form == "fixed":
            near = torch.div(key, self.stride, rounding_mode="floor") == position // self.stride
            regular = key % self.stride >= self.stride - self.summary
        else:
            near = distance.abs() < self.stride
            regular = distance % self.stride == 0
        if self.slot.pattern is Pattern.CS:
            near, regular = near & (distance <= 0), regular & (distance <= 0)
        return near, regular & ~near

    def _first_near_key(self, position: Tensor) -> Tensor:
        """Return the first key near a block whose first query is at `position`."""
        return position // self.stride * self.stride if self.form == "fixed" else position - self.stride + 1

    def _width(self) -> int:
        """Count the keys from the first to the last that is near a query of a block."""
        stride, slot = self.stride, self.slot
        if not slot.pattern.cross:  # blocks of queries are segments of keys
            if self.form == "fixed":
                return stride
            return 2 * stride - 1 if slot.pattern is Pattern.CS else 3 * stride - 2
        span = -(-(stride - 1) * slot.keys // slot.max_len) + 1
        return span + 2 * (stride - 1)

    def _regular_count(self, m: int) -> int:
        """Count the regular keys that each query is scored against."""
        return -(-m // self.stride) * (self.summary if self.form == "fixed" else 1)

    def _summaries(
        self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Score the last `summary` keys of each segment, which are the same for all queries.

        q is (batch, heads, blocks, stride, dim), k and v are (batch, heads, segments, stride, ·), `position` is
        (blocks, stride, 1). Return scores, their mask, and a function that multiplies weights by the values.
        """
        last = slice(self.stride - self.summary, None)
        k, v = (t[:, :, :, last].flatten(2, 3).unsqueeze(2) for t in (k, v))
        key = torch.arange(real.shape[1] * self.stride, device=q.device).view(-1, self.stride)[:, last].flatten()
        seen = self._seen(position, key)[1] & real[:, :, last].flatten(1)[:, None, None, None, :]
        return q @ k.transpose(-1, -2), seen, lambda weights: weights @ v

    def _columns(
        self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Score the keys at multiples of `stride` from a query: its column, if every segment is a row.

        Arguments and results are as in `_summaries`.
        """
        key = torch.arange(real.shape[1], device=q.device) * self.stride + position % self.stride
        seen = self._seen(position, key)[1]
        k, v = (t.transpose(2, 3) for t in (k, v))  # (batch, heads, stride, segments, size)
        real = real.transpose(1, 2)
        if not self.slot.pattern.cross:  # every query of a block is in a column of its own
            scores = (q.transpose(2, 3) @ k.transpose(-1, -2)).transpose(2, 3)
            return scores, seen & real[:, None, None], lambda w: (w.transpose(2, 3) @ v).transpose(2, 3)
        column = (position % self.stride).flatten()
        shape = position.shape[:2]
        k, v = (t.index_select(2, column).unflatten(2, shape) for t in (k, v))
        seen = seen & real.index_select(1, column).unflatten(1, shape).unsqueeze(1)
        scores = (q.unsqueeze(-2) @ k.transpose(-1, -2)).squeeze(-2)
        return scores, seen, lambda w: (w.unsqueeze(-2) @ v).squeeze(-2)


def _written(t: Tensor, new: Tensor, target: Tensor, size: int) -> Tensor:
    """Extend t (batch, heads, length, ·) to `size` tokens and write new ones at the indices `target` (batch, tokens).

    A token whose index is `size` is not stored.
    """
    padded = F.pad(t, (0, 0, 0, size + 1 - t.shape[2]))
    return padded.scatter(2, target[:, None, :, None].expand_as(new), new)[:, :, :-1]
