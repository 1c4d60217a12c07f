"""EVA, efficient attention via control variates (Zheng et al., arXiv 2302.04542): a window of keys, and pooled chunks.

One softmax of query i has the scores q_i . k_j / sqrt(dim) for the keys of its window, and q_i . k_c / sqrt(dim) for
the chunks, where k_c is the mean of chunk c's keys after a linear map and a layer norm. The value of a chunk is

    sum over j in c of softmax_j g(k_j, w_c) v_j,   g(k, w) = (w . k - |k|^2 / 2) / sqrt(dim),

with w_c = mu_c plus, in training, normal noise. mu_c is made of k_c and q_c, which is the same from the chunk's
queries (section 4 and appendix G). As in the authors' code:

- NS: `landmarks` chunks of consecutive real tokens, mu_c = (q_c + k_c) / 2. The window is the query's block of `window`
  tokens; with `overlap`, and half a block on each side. Chunks do not overlap, as in the paper. In the authors' code
  they do where windows overlap.
- CS: chunks of max_len / landmarks tokens, mu_c = q_c + k_c. A query sees the chunks before its own chunk. The window
  is the query's block up to the query; with `overlap`, and the block before it. Blocks are whole chunks (`window` is
  rounded up), so that every token of the past is in the window or in a chunk that the query sees.
- NC, CC: a query has no position in the source, so there is no window, and mu_c = k_c. A row uses its own query alone.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.block_window import block_window_pairs, block_window_softmax
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import chunked
from cab.ops.ragged import gather_tokens, real_first
from cab.ops.segments import segment_members
from cab.ops.softmax import masked_softmax

Chunks = tuple[Tensor, Tensor, Tensor]  # k_c and values (batch, heads, chunks, ·); which have a token (batch, chunks)


class Eva(Mechanism):
    """Every query attends to the keys near it, and to one estimate for each chunk."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2302.04542"
    cost = "O(n (w + r) d), CS O(n (w + r + n / r) d)"
    accepts = {"window": ">= 1"}
    checks = ({"landmarks": 7, "window": 4}, {"landmarks": 16, "window": 8, "overlap": False})
    limits = ({"params": {"landmarks": 1}, "equals": "softmax", "patterns": ["CS"]},)
    exempt = {"modes": "in training the proposals are drawn around their means"}

    def __init__(self, slot: Any, *, landmarks: int = 49, window: int = 64, overlap: bool = True) -> None:
        super().__init__(slot)
        if not 1 <= landmarks <= slot.keys:
            raise ValueError(f"landmarks={landmarks}: from 1 to the {slot.keys} keys of the slot")
        self.landmarks, self.chunk = landmarks, -(-slot.max_len // landmarks)
        if slot.pattern is Pattern.CS:
            self.window = -(-window // self.chunk) * self.chunk  # whole chunks
            self.before, self.after = (self.window if overlap else 0), 0
        else:
            self.window = window
            self.before = self.after = max(1, window // 2) if overlap else 0
        self.key_map = nn.Sequential(nn.Linear(slot.dim, slot.dim), nn.LayerNorm(slot.dim))
        if not slot.pattern.cross:
            self.query_map = nn.Sequential(nn.Linear(slot.dim, slot.dim), nn.LayerNorm(slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Pool the chunks, then attend to them and to the window in one softmax, block by block."""
        chunk_k, chunk_v, exists = self._chunks(None if self.slot.pattern.cross else q, k, v, key_mask)
        q = q * self.slot.dim**-0.5
        scores, seen = q @ chunk_k.transpose(-1, -2), exists[:, None, None, :]
        if self.slot.pattern.cross:
            return masked_softmax(scores, seen) @ chunk_v
        reach = None
        if self.slot.pattern.causal:
            position = torch.arange(q.shape[2], device=q.device)[None]
            seen, reach = self._past_chunks(position, exists), self.before + self.window
        chunks = scores, seen, chunk_v
        return block_window_softmax(q, k, v, self.window, self.before, self.after, reach, chunks, key_mask)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Pool each head's chunks; then attend, query by query, to the chunks and the keys that it sees."""
        n, m, scale, pattern, rows = q.shape[2], k.shape[2], self.slot.dim**0.5, self.slot.pattern, []
        short, longer = divmod(m, self.landmarks)
        sizes = [short] * (self.landmarks - longer) + [short + 1] * longer
        chunks = torch.arange(m).split(self.chunk if pattern is Pattern.CS else sizes)
        for q_h, k_h, v_h in zip(q[0], k[0], v[0], strict=True):
            means, estimates = [], []
            for c in filter(len, chunks):
                mean = mu = self.key_map(k_h[c].mean(0))
                if not pattern.cross:
                    mu = (mean + self.query_map(q_h[c].mean(0))) / (1 if pattern is Pattern.CS else 2)
                g = (k_h[c] @ mu - k_h[c].square().sum(-1) / 2) / scale
                means.append(mean)
                estimates.append(g.softmax(0) @ v_h[c])
            for i in range(n):
                past = i // self.chunk if pattern is Pattern.CS else len(means)
                start = i // self.window * self.window
                stop = 0 if pattern.cross else i + 1 if pattern is Pattern.CS else start + self.window + self.after
                window = slice(max(0, start - self.before), stop)
                keys, values = (torch.stack([*a[:past], *t[window]]) for a, t in ((means, k_h), (estimates, v_h)))
                rows.append((keys @ q_h[i] / scale).softmax(0) @ values)
        return torch.stack(rows).view(1, q.shape[1], n, -1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the maps of the means, the estimates, and attention to the chunks and the blocks."""
        dim, pair = self.slot.dim, self.slot.dim + self.slot.values
        chunks, width = self.landmarks, -(-m // self.landmarks)
        if self.slot.pattern is Pattern.CS:
            chunks, width = -(-n // self.chunk), self.chunk
        near = 0 if self.slot.pattern.cross else block_window_pairs(n, self.window, self.before, self.after)
        maps = chunks * dim * dim * (1 if self.slot.pattern.cross else 2)
        return 2.0 * self.slot.heads * (maps + (chunks * width + n * chunks + near) * pair)

    def flops_needed(self, n: int, m: int) -> float:
        """Count, in CS, the keys up to the query and the chunks before its own alone."""
        if self.slot.pattern is not Pattern.CS:
            return self.flops(n, m)
        near = sum(i + 1 - max(0, i // self.window * self.window - self.before) for i in range(n))
        far = sum(i // self.chunk for i in range(n))
        maps = -(-n // self.chunk) * 2 * self.slot.dim**2
        return 2.0 * self.slot.heads * (maps + (n + near + far) * (self.slot.dim + self.slot.values))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Pool the source (CC); or keep queries, keys, values and which of them are real (CS)."""
        if self.slot.pattern.cross:
            return self._chunks(None, k, v, key_mask)
        return k, k, v, k.new_zeros(k.shape[0], k.shape[2], dtype=torch.bool)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend to the chunks (CC); or append the new tokens, real ones first, and pool the chunks anew (CS)."""
        scaled = q * self.slot.dim**-0.5
        if k is None or v is None:
            chunk_k, chunk_v, exists = state
            return masked_softmax(scaled @ chunk_k.transpose(-1, -2), exists[:, None, None, :]) @ chunk_v, state
        *old, real = state
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        position = (real.sum(1, keepdim=True) + new.cumsum(1) - 1).clamp(min=0)
        real = torch.cat([real, new], 1)
        order = real_first(real)[0]
        queries, keys, values = (gather_tokens(torch.cat(pair, 2), order) for pair in zip(old, (q, k, v), strict=True))
        real = real.gather(1, order)
        chunk_k, chunk_v, exists = self._chunks(queries, keys, values, real)
        i, j = position.unsqueeze(2), torch.arange(keys.shape[2], device=q.device)
        in_window = real[:, None, :] & (j <= i) & (j >= i // self.window * self.window - self.before)
        weights = masked_softmax(
            scaled @ torch.cat([chunk_k, keys], 2).transpose(-1, -2),
            torch.cat([self._past_chunks(position, exists), in_window[:, None]], 3),
        )
        return weights @ torch.cat([chunk_v, values], 2), (queries, keys, values, real)

    def _chunks(self, q: Tensor | None, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Chunks:
        """Pool each chunk. Scores are computed in float32 at least, as they are differences of large numbers."""
        if self.slot.pattern is Pattern.CS:
            real = torch.ones(1, k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask
            inside = chunked(real[:, None, :, None], self.chunk)[:, 0, :, :, 0]
            chunk_q, chunk_k, chunk_v = (None if t is None else chunked(t, self.chunk) for t in (q, k, v))
        else:
            position, inside = segment_members(k.shape[2], key_mask, self.landmarks, k.device)
            index, shape = position.flatten(1).expand(k.shape[0], -1), position.shape[1:]
            chunk_q, chunk_k, chunk_v = (
                None if t is None else torch.unflatten(gather_tokens(t, index), 2, shape) for t in (q, k, v)
            )
        mean = self.key_map(_mean(chunk_k, inside))
        mu = mean
        if chunk_q is not None:
            mu = (mean + self.query_map(_mean(chunk_q, inside))) * (1.0 if self.slot.pattern.causal else 0.5)
        if self.training:
            mu = mu + torch.randn_like(mu)
        wide = chunk_k.to(at_least_float32(k))
        with full_precision(k.device.type):
            scores = (wide @ mu.to(wide.dtype).unsqueeze(4)).squeeze(4) - 0.5 * wide.square().sum(-1)
        weights = masked_softmax(scores * self.slot.dim**-0.5, inside[:, None])
        return mean, (weights.to(v.dtype).unsqueeze(3) @ chunk_v).squeeze(3), inside.any(2)

    def _past_chunks(self, position: Tensor, exists: Tensor) -> Tensor:
        """Return which chunks queries at positions (batch or 1, n) see, (batch or 1, 1, n, chunks)."""
        past = torch.arange(exists.shape[1], device=position.device) < (position // self.chunk).unsqueeze(2)
        return (past & exists[:, None, :])[:, None]


def _mean(t: Tensor, inside: Tensor) -> Tensor:
    """Average each chunk of t (batch, heads, chunks, width, size) over the tokens `inside` it."""
    total = t.masked_fill(~inside[:, None, :, :, None], 0.0).sum(3, dtype=at_least_float32(t))
    return (total / inside.sum(2).clamp(min=1)[:, None, :, None]).to(t.dtype)
