"""Long-Short Transformer (Zhu et al., arXiv 2107.02192): a window and learned mixtures of keys, in one softmax.

Keys and values pass a layer norm (DualLN: one norm for those near, a second one for the mixtures of them).

- NS: `landmarks` mixtures, each a softmax over the tokens y of a learned score, y_j . w (dynamic projection, equation
  4); and the query's segment of `window` tokens with half a window on each side.
- CS: each chunk of `chunk` tokens is mixed alone, into `rank` keys, and query i sees the chunks that ended before its
  own began, and the last `window` tokens (section 3.3).
- NC, CC: a query has no place in the source, so there is no window: the mixtures alone. A row needs its own query and
  the source.

The norms are one a head, for keys and for values, as the paper's notation has it (its code normalises over all heads).
The relative positions of the paper's language model are left to the layer, its optional convolution is left out.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.block_window import block_window_pairs, block_window_softmax
from cab.ops.norms import HeadNorm
from cab.ops.prefix import chunked
from cab.ops.ragged import gather_tokens, real_first
from cab.ops.softmax import masked_softmax


class LongShort(Mechanism):
    """Every query weighs the keys near it, and learned mixtures of those far away."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2107.02192"
    cost = "O(n (w + r) d), CS O(n (w + n / c) d)"
    inputs = {"y": ("keys", "real", "tokens")}
    checks = (
        {"landmarks": 3, "window": 4, "chunk": 5},
        {"landmarks": 2, "window": 7, "chunk": 3, "rank": 2},
    )

    def __init__(self, slot: Any, *, landmarks: int = 32, window: int = 64, chunk: int = 32, rank: int = 1) -> None:
        super().__init__(slot)
        for name, value in (("landmarks", landmarks), ("window", window), ("chunk", chunk), ("rank", rank)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")
        causal_self = slot.pattern is Pattern.CS
        if not causal_self and landmarks > slot.keys:
            raise ValueError(f"landmarks={landmarks}: at most the {slot.keys} keys of the slot")
        if causal_self and rank > chunk:
            raise ValueError(f"rank={rank}: at most the {chunk} tokens of a chunk")
        self.window, self.chunk = window, chunk
        self.rank = rank if causal_self else landmarks
        self.mix = nn.Linear(slot.tokens, slot.heads * self.rank, bias=False)
        self.near_k, self.near_v = HeadNorm(slot.heads, slot.dim), HeadNorm(slot.heads, slot.values)
        # without a window a shift of all keys changes no weight
        self.far_k, self.far_v = (
            HeadNorm(slot.heads, slot.dim, shift=not slot.pattern.cross),
            HeadNorm(slot.heads, slot.values),
        )

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        y: Tensor,
    ) -> Tensor:
        """Mix what is far, then weigh it together with what is near, block by block."""
        q, k, v, scores = q * self.slot.dim**-0.5, self.near_k(k), self.near_v(v), self._scores(y)
        if self.slot.pattern is Pattern.CS:
            far_k, far_v, mixed = self._chunks(k, v, scores, key_mask)
            own = torch.arange(q.shape[2], device=q.device)[None]
            far = q @ far_k.transpose(-1, -2), self._ended(own, mixed), far_v
            return block_window_softmax(q, k, v, self.window, self.window - 1, 0, self.window, far, key_mask)
        far_k, far_v = self._mixtures(k, v, scores, key_mask)
        if self.slot.pattern.cross:
            return (q @ far_k.transpose(-1, -2)).softmax(-1) @ far_v
        side = max(self.window // 2, 1)
        return block_window_softmax(
            q, k, v, self.window, side, side, None, (q @ far_k.transpose(-1, -2), None, far_v), key_mask
        )

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        y: Tensor,
    ) -> Tensor:
        """Query by query of each head of each sample, over its list of keys."""
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        for b in range(q.shape[0]):
            real = list(range(k.shape[2])) if key_mask is None else key_mask[b].nonzero()[:, 0].tolist()
            queries = list(range(q.shape[2])) if query_mask is None else query_mask[b].nonzero()[:, 0].tolist()
            if not real:
                continue
            for h in range(q.shape[1]):
                keys = _normed(self.near_k, h, k[b, h])
                values = _normed(self.near_v, h, v[b, h])
                logits = y[b] @ self.mix.weight[h * self.rank : (h + 1) * self.rank].T

                def mixed(
                    js: list[int], keys: Tensor = keys, values: Tensor = values, logits: Tensor = logits, h: int = h
                ) -> tuple[Tensor, Tensor]:
                    shares = logits[js].softmax(0).T
                    return _normed(self.far_k, h, shares @ keys[js]), _normed(self.far_v, h, shares @ values[js])

                whole = None if self.slot.pattern is Pattern.CS else mixed(real)
                chunks: dict[int, tuple[Tensor, Tensor]] = {}
                for i in queries:
                    if self.slot.pattern is Pattern.CS:
                        near = [j for j in real if 0 <= i - j < self.window]
                        far = []
                        for c in range(i // self.chunk):
                            inside = [j for j in real if j // self.chunk == c]
                            if inside:
                                chunks[c] = chunks.get(c) or mixed(inside)
                                far.append(chunks[c])
                    else:
                        assert whole is not None
                        start, side = i // self.window * self.window, max(self.window // 2, 1)
                        near = [j for j in real if start - side <= j < start + self.window + side]
                        near, far = [] if self.slot.pattern.cross else near, [whole]
                    all_k = torch.cat([keys[near], *(one for one, _ in far)])
                    all_v = torch.cat([values[near], *(one for _, one in far)])
                    if len(all_k):
                        out[b, h, i] = (all_k @ q[b, h, i] / self.slot.dim**0.5).softmax(0) @ all_v
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The scores of mixing, the mixtures, and attention to them and to the blocks."""
        pair, mixing = self.slot.dim + self.slot.values, m * self.slot.tokens * self.rank
        if self.slot.pattern is Pattern.CS:
            chunks = -(-n // self.chunk)
            pairs = chunks * self.chunk * self.rank + n * chunks * self.rank
            pairs += block_window_pairs(n, self.window, self.window - 1, 0)
        else:
            side = max(self.window // 2, 1)
            pairs = (n + m) * self.rank + (
                0 if self.slot.pattern.cross else block_window_pairs(n, self.window, side, side)
            )
        return 2.0 * self.slot.heads * (mixing + pairs * pair)

    def flops_needed(self, n: int, m: int) -> float:
        """In CS, chunks that have ended and at most `window` keys; elsewhere what is executed."""
        if self.slot.pattern is not Pattern.CS:
            return self.flops(n, m)
        reach = min(self.window, n)
        near = n * reach - reach * (reach - 1) // 2
        far = sum(min(self.chunk, n - start) * (start // self.chunk) for start in range(0, n, self.chunk))
        pairs = near + (far + n) * self.rank
        return 2.0 * self.slot.heads * (m * self.slot.tokens * self.rank + pairs * (self.slot.dim + self.slot.values))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, y: Tensor) -> Any:
        """Mix the source (CC); or keep normalised keys and values, scores of mixing, and which are real (CS)."""
        k, v, scores = self.near_k(k), self.near_v(v), self._scores(y)
        if self.slot.pattern.cross:
            return self._mixtures(k, v, scores, key_mask)
        return k, v, scores, k.new_zeros(k.shape[0], k.shape[2], dtype=torch.bool)

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        *,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Read the mixtures (CC); or append the new tokens, each row's real ones first, and mix what has ended (CS)."""
        q = q * self.slot.dim**-0.5
        if k is None or v is None or y is None:
            far_k, far_v = state
            return (q @ far_k.transpose(-1, -2)).softmax(-1) @ far_v, state
        *old, real = state
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        own = (real.sum(1, keepdim=True) + new.cumsum(1) - 1).clamp(min=0)
        tensors = [
            torch.cat(pair, 2) for pair in zip(old, (self.near_k(k), self.near_v(v), self._scores(y)), strict=True)
        ]
        real = torch.cat([real, new], 1)
        order = real_first(real)[0]
        keys, values, scores = (gather_tokens(t, order) for t in tensors)
        real = real.gather(1, order)
        far_k, far_v, mixed = self._chunks(keys, values, scores, real)
        away = own.unsqueeze(2) - torch.arange(keys.shape[2], device=q.device)
        near = real[:, None, :] & (away >= 0) & (away < self.window)
        weights = masked_softmax(
            q @ torch.cat([far_k, keys], 2).transpose(-1, -2),
            torch.cat([self._ended(own, mixed), near[:, None]], 3),
        )
        return weights @ torch.cat([far_v, values], 2), (keys, values, scores, real)

    def _scores(self, y: Tensor) -> Tensor:
        """Return the scores of mixing: (batch, heads, m, rank)."""
        return torch.unflatten(self.mix(y), 2, (self.slot.heads, self.rank)).transpose(1, 2)

    def _mixtures(self, k: Tensor, v: Tensor, scores: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = None if key_mask is None else key_mask[:, None, None, :]
        shares = masked_softmax(scores.transpose(-1, -2), seen)
        return self.far_k(shares @ k), self.far_v(shares @ v)

    def _chunks(self, k: Tensor, v: Tensor, scores: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Mix each chunk: keys and values (batch, heads, chunks * rank, ·), and which chunks hold a token."""
        real = torch.ones(1, k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask
        inside = chunked(real[:, None, :, None], self.chunk).transpose(-1, -2)
        shares = masked_softmax(chunked(scores, self.chunk).transpose(-1, -2), inside)
        far_k, far_v = ((shares @ chunked(t, self.chunk)).flatten(2, 3) for t in (k, v))
        return self.far_k(far_k), self.far_v(far_v), inside.any(-1)[:, 0, :, 0]

    def _ended(self, own: Tensor, mixed: Tensor) -> Tensor:
        """Which mixtures queries at places own (batch or 1, n) see: (batch or 1, 1, n, chunks * rank)."""
        ended = torch.arange(mixed.shape[1], device=own.device) < (own // self.chunk).unsqueeze(2)
        return (ended & mixed[:, None, :]).repeat_interleave(self.rank, 2)[:, None]


def _normed(norm: HeadNorm, head: int, t: Tensor) -> Tensor:
    """Normalise one head's t (length, size), written out."""
    away = t - t.mean(-1, keepdim=True)
    out = away / (away.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.scale[head]
    return out if norm.shift is None else out + norm.shift[head]
