"""EVA, efficient attention via control variates (Zheng et al., arXiv 2302.04542): a window, exactly, and pooled chunks.

Query i weighs in one softmax the keys of its window, by q_i . k_j / sqrt(dim), and the chunks, by q_i . k_c over the
same, where k_c is the mean of chunk c's keys through a linear map and a layer norm. A chunk's value is the estimate

    sum over j in c of softmax_j g(k_j, w_c) v_j,   g(k, w) = (w . k - |k|^2 / 2) / sqrt(dim),

with w_c = mu_c and, in training, normal noise; mu_c is made of k_c and of q_c, the same from the chunk's queries
(section 4 and appendix G). As in the authors' code:

- NS: `landmarks` chunks of consecutive real tokens, mu_c = (q_c + k_c) / 2. The window is the query's block of `window`
  tokens, with `overlap` half a block more on each side. Chunks never overlap, as in the paper; with overlapping windows
  those of the authors' code reach as far into their neighbours.
- CS: chunks of max_len / landmarks tokens, mu_c = q_c + k_c; a query sees the chunks that ended before its own began.
  The window is the query's block up to itself, with `overlap` one block more before it. A chunk must lie in the window
  until it has ended, so blocks are at least as long as chunks: `window`, or the chunk where that is longer.
- NC, CC: a query has no place in the source, so there is no window, and mu_c = k_c: a row needs its own query alone.
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

Chunks = tuple[Tensor, Tensor, Tensor]  # k_c and values (batch, heads, chunks, ·), and which hold a token (batch, ·)


class Eva(Mechanism):
    """Every query weighs the keys near it, and an estimate for each chunk of the rest."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2302.04542"
    cost = "O(n (w + r) d), CS O(n (w + r + n / r) d)"
    checks = ({"landmarks": 7, "window": 4}, {"landmarks": 16, "window": 8, "overlap": False})
    limits = ({"params": {"landmarks": 1}, "equals": "softmax", "patterns": ["CS"]},)
    exempt = {"modes": "in training the proposals are drawn around their means"}

    def __init__(self, slot: Any, *, landmarks: int = 49, window: int = 64, overlap: bool = True) -> None:
        super().__init__(slot)
        if not 1 <= landmarks <= slot.keys:
            raise ValueError(f"landmarks={landmarks}: from 1 to the {slot.keys} keys of the slot")
        if window < 1:
            raise ValueError(f"window={window}: at least 1 token is needed")
        self.landmarks, self.chunk = landmarks, -(-slot.max_len // landmarks)
        if slot.pattern is Pattern.CS:
            self.window = -(-window // self.chunk) * self.chunk  # whole chunks, so that none is cut
            self.before, self.after = (self.window if overlap else 0), 0
        else:
            self.window = window
            self.before = self.after = max(1, window // 2) if overlap else 0
        self.of_keys = nn.Sequential(nn.Linear(slot.dim, slot.dim), nn.LayerNorm(slot.dim))
        if not slot.pattern.cross:
            self.of_queries = nn.Sequential(nn.Linear(slot.dim, slot.dim), nn.LayerNorm(slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Pool the chunks, then weigh them together with what is near, block by block."""
        far_k, far_v, exists = self._chunks(None if self.slot.pattern.cross else q, k, v, key_mask)
        q = q * self.slot.dim**-0.5
        scores, seen = q @ far_k.transpose(-1, -2), exists[:, None, None, :]
        if self.slot.pattern.cross:
            return masked_softmax(scores, seen) @ far_v
        reach = None
        if self.slot.pattern.causal:
            seen, reach = (
                self._ended(torch.arange(q.shape[2], device=q.device)[None], exists),
                self.before + self.window,
            )
        far = scores, seen, far_v
        return block_window_softmax(q, k, v, self.window, self.before, self.after, reach, far, key_mask)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Query by query of each head of each sample, over its list of keys and chunks."""
        out, causal, cross = q.new_zeros(*q.shape[:3], v.shape[3]), self.slot.pattern.causal, self.slot.pattern.cross
        for b in range(q.shape[0]):
            real = list(range(k.shape[2])) if key_mask is None else key_mask[b].nonzero()[:, 0].tolist()
            queries = list(range(q.shape[2])) if query_mask is None else query_mask[b].nonzero()[:, 0].tolist()
            if causal and not cross:
                parts = [[j for j in real if j // self.chunk == c] for c in range(-(-k.shape[2] // self.chunk))]
            else:
                short, longer = divmod(len(real), self.landmarks)
                ends = [c * short + max(0, c - self.landmarks + longer) for c in range(self.landmarks + 1)]
                parts = [real[start:stop] for start, stop in zip(ends, ends[1:], strict=False)]
            for h in range(q.shape[1]):
                chunks = {}
                for c, part in enumerate(parts):
                    if part:
                        mean = mu = self.of_keys(k[b, h, part].mean(0))
                        if not cross:
                            mu = (mean + self.of_queries(q[b, h, part].mean(0))) * (1.0 if causal else 0.5)
                        g = (k[b, h, part] @ mu - k[b, h, part].square().sum(-1) / 2) / q.shape[3] ** 0.5
                        chunks[c] = mean, g.softmax(0) @ v[b, h, part]
                for i in queries:
                    start = i // self.window * self.window
                    last = i if causal else start + self.window + self.after - 1
                    near = [j for j in real if start - self.before <= j <= last and not cross]
                    far = [one for c, one in chunks.items() if cross or not causal or c < i // self.chunk]
                    keys, values = torch.cat([k[b, h, near], *(one[None] for one, _ in far)]), v[b, h, near]
                    if len(keys):
                        values = torch.cat([values, *(one[None] for _, one in far)])
                        out[b, h, i] = (keys @ q[b, h, i] / q.shape[3] ** 0.5).softmax(0) @ values
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The maps of the means, the chunks' estimates, and attention to them and to the blocks."""
        dim, pair = self.slot.dim, self.slot.dim + self.slot.values
        chunks, width = self.landmarks, -(-m // self.landmarks)
        if self.slot.pattern is Pattern.CS:
            chunks, width = -(-n // self.chunk), self.chunk
        near = 0 if self.slot.pattern.cross else block_window_pairs(n, self.window, self.before, self.after)
        maps = chunks * dim * dim * (1 if self.slot.pattern.cross else 2)
        return 2.0 * self.slot.heads * (maps + (chunks * width + n * chunks + near) * pair)

    def flops_needed(self, n: int, m: int) -> float:
        """In CS, the keys up to a query's own and the chunks that ended before its own."""
        if self.slot.pattern is not Pattern.CS:
            return self.flops(n, m)
        near = sum(i + 1 - max(0, i // self.window * self.window - self.before) for i in range(n))
        far = sum(i // self.chunk for i in range(n))
        maps = -(-n // self.chunk) * 2 * self.slot.dim**2
        return 2.0 * self.slot.heads * (maps + (n + near + far) * (self.slot.dim + self.slot.values))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Pool the source (CC); or keep queries, keys and values, and which are real (CS)."""
        if self.slot.pattern.cross:
            return self._chunks(None, k, v, key_mask)
        return k, k, v, k.new_zeros(k.shape[0], k.shape[2], dtype=torch.bool)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the chunks (CC); or append the new tokens, each row's real ones first, and pool what has ended (CS)."""
        scaled = q * self.slot.dim**-0.5
        if k is None or v is None:
            far_k, far_v, exists = state
            return masked_softmax(scaled @ far_k.transpose(-1, -2), exists[:, None, None, :]) @ far_v, state
        *old, real = state
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        own = (real.sum(1, keepdim=True) + new.cumsum(1) - 1).clamp(min=0)
        real = torch.cat([real, new], 1)
        order = real_first(real)[0]
        queries, keys, values = (gather_tokens(torch.cat(pair, 2), order) for pair in zip(old, (q, k, v), strict=True))
        real = real.gather(1, order)
        far_k, far_v, exists = self._chunks(queries, keys, values, real)
        place, own_place = torch.arange(keys.shape[2], device=q.device), own.unsqueeze(2)
        near = real[:, None, :] & (place <= own_place)
        near = near & (place >= own_place // self.window * self.window - self.before)
        weights = masked_softmax(
            scaled @ torch.cat([far_k, keys], 2).transpose(-1, -2),
            torch.cat([self._ended(own, exists), near[:, None]], 3),
        )
        return weights @ torch.cat([far_v, values], 2), (queries, keys, values, real)

    def _chunks(self, q: Tensor | None, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Chunks:
        """Estimate each chunk. 16-bit scores are computed in float32, as they are differences of large numbers."""
        if self.slot.pattern is Pattern.CS:
            real = torch.ones(1, k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask
            inside = chunked(real[:, None, :, None], self.chunk)[:, 0, :, :, 0]
            of_q, of_k, of_v = (None if t is None else chunked(t, self.chunk) for t in (q, k, v))
        else:
            places, inside = segment_members(k.shape[2], key_mask, self.landmarks, k.device)
            index = places.flatten(1).expand(k.shape[0], -1)
            of_q, of_k, of_v = (
                None if t is None else torch.unflatten(gather_tokens(t, index), 2, places.shape[1:]) for t in (q, k, v)
            )
        mean = self.of_keys(_mean(of_k, inside))
        mu = mean
        if of_q is not None:
            mu = (mean + self.of_queries(_mean(of_q, inside))) * (1.0 if self.slot.pattern.causal else 0.5)
        if self.training:
            mu = mu + torch.randn_like(mu)
        wide = of_k.to(at_least_float32(k))
        with full_precision(k.device.type):
            scores = (wide @ mu.to(wide.dtype).unsqueeze(4)).squeeze(4) - 0.5 * wide.square().sum(-1)
        shares = masked_softmax(scores * self.slot.dim**-0.5, inside[:, None])
        return mean, (shares.to(v.dtype).unsqueeze(3) @ of_v).squeeze(3), inside.any(2)

    def _ended(self, own: Tensor, exists: Tensor) -> Tensor:
        """Which chunks queries at places own (batch or 1, n) see: (batch or 1, 1, n, chunks)."""
        ended = torch.arange(exists.shape[1], device=own.device) < (own // self.chunk).unsqueeze(2)
        return (ended & exists[:, None, :])[:, None]


def _mean(t: Tensor, inside: Tensor) -> Tensor:
    """Average the tokens of each chunk (batch, heads, chunks, width, size) that are in it."""
    total = t.masked_fill(~inside[:, None, :, :, None], 0.0).sum(3, dtype=at_least_float32(t))
    return (total / inside.sum(2).clamp(min=1)[:, None, :, None]).to(t.dtype)
