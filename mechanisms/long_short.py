"""Long-Short Transformer (Zhu et al., arXiv 2107.02192): nearby keys and learned mixtures of all, in one softmax.

A mixture is a sum of keys, or of values, with the softmax over the tokens y of a learned score y_j . w as weights (the
paper's dynamic projection, equation 4). DualLN norms the nearby keys and values by one layer norm, and the mixtures by
another.

- NS: the query attends to `landmarks` mixtures of all tokens, to its segment of `window` tokens, and to half a window
  on each side of the segment. What is mixed has passed the norm of nearby tokens, as in the authors' bidirectional
  code.
- CS (section 3.3): each chunk of `chunk` tokens has `rank` mixtures of its own. Query i attends to the mixtures of the
  chunks before its own, and to the last `window` tokens. What is mixed has passed no norm, as in the authors'
  autoregressive code.
- NC and CC: a query has no position in the source, so it attends to the mixtures alone, which are those of NS. A row
  reads its own query and the source.

The norms are one for each head, for keys and for values, as in the paper's notation. In the authors' code all heads,
keys and values share one. The relative positions of the paper's language model are left to the layer. Its optional
convolution is left out.
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
    """Every query attends to the keys near it, and to learned mixtures of all keys."""

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
        # in cross patterns all keys are mixtures, and a shift of all keys changes no weight
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
        """Compute the mixtures, then one softmax over them and the keys of the window, block by block."""
        q, near_k, near_v, scores = q * self.slot.dim**-0.5, self.near_k(k), self.near_v(v), self._mixing_scores(y)
        if self.slot.pattern is Pattern.CS:
            far_k, far_v, not_empty = self._mix_chunks(k, v, scores, key_mask)
            position = torch.arange(q.shape[2], device=q.device)[None]
            far = q @ far_k.transpose(-1, -2), self._ended(position, not_empty), far_v
            return block_window_softmax(q, near_k, near_v, self.window, self.window - 1, 0, self.window, far, key_mask)
        far_k, far_v = self._mix_all(near_k, near_v, scores, key_mask)
        if self.slot.pattern.cross:
            return (q @ far_k.transpose(-1, -2)).softmax(-1) @ far_v
        side = max(self.window // 2, 1)
        far_scores = q @ far_k.transpose(-1, -2)
        return block_window_softmax(
            q, near_k, near_v, self.window, side, side, None, (far_scores, None, far_v), key_mask
        )

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, y: Tensor) -> Tensor:
        """Compute the mixtures, then for each query one softmax over them and the keys of its window."""
        causal_self, side = self.slot.pattern is Pattern.CS, max(self.window // 2, 1)
        near_k, near_v = _layer_norm(k, self.near_k), _layer_norm(v, self.near_v)
        mixed_k, mixed_v = (k, v) if causal_self else (near_k, near_v)
        size = self.chunk if causal_self else k.shape[2]
        scores = torch.einsum("bjt,hrt->bhrj", y, self.mix.weight.unflatten(0, (-1, self.rank)))
        weights = [scores_of_chunk.softmax(-1) for scores_of_chunk in scores.split(size, 3)]
        far_k = torch.cat([w @ t for w, t in zip(weights, mixed_k.split(size, 2), strict=True)], 2)
        far_v = torch.cat([w @ t for w, t in zip(weights, mixed_v.split(size, 2), strict=True)], 2)
        far_k, far_v = _layer_norm(far_k, self.far_k), _layer_norm(far_v, self.far_v)
        rows = []
        for i in range(q.shape[2]):
            segment = i // self.window * self.window
            near, far = slice(max(0, segment - side), segment + self.window + side), self.rank
            if self.slot.pattern.cross:
                near = slice(0)
            elif causal_self:
                near, far = slice(max(0, i + 1 - self.window), i + 1), i // self.chunk * self.rank
            keys = torch.cat([far_k[:, :, :far], near_k[:, :, near]], 2)
            values = torch.cat([far_v[:, :, :far], near_v[:, :, near]], 2)
            rows.append((q[:, :, [i]] @ keys.mT / self.slot.dim**0.5).softmax(-1) @ values)
        return torch.cat(rows, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the scores of mixing, the mixtures, and attention to them and to the blocks of keys."""
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
        """Count in CS, for each query, the chunks that have ended and at most `window` keys; elsewhere as `flops`."""
        if self.slot.pattern is not Pattern.CS:
            return self.flops(n, m)
        window = min(self.window, n)
        near = n * window - window * (window - 1) // 2
        far = sum(min(self.chunk, n - start) * (start // self.chunk) for start in range(0, n, self.chunk))
        pairs = near + (far + n) * self.rank
        return 2.0 * self.slot.heads * (m * self.slot.tokens * self.rank + pairs * (self.slot.dim + self.slot.values))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, y: Tensor) -> Any:
        """Return the mixtures of the source (CC), or the caches: keys, values, scores of mixing, mask (CS)."""
        scores = self._mixing_scores(y)
        if self.slot.pattern.cross:
            return self._mix_all(self.near_k(k), self.near_v(v), scores, key_mask)
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
        """Attend to the mixtures (CC), or append the new tokens to the caches and attend to them (CS).

        In each row the caches hold the real tokens first, so that the index of a token is its position.
        """
        q = q * self.slot.dim**-0.5
        if k is None or v is None or y is None:
            far_k, far_v = state
            return (q @ far_k.transpose(-1, -2)).softmax(-1) @ far_v, state
        *caches, real = state
        new_real = key_mask
        if new_real is None:
            new_real = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
        position = (real.sum(1, keepdim=True) + new_real.cumsum(1) - 1).clamp(min=0)
        new = k, v, self._mixing_scores(y)
        caches = [torch.cat([cache, t], 2) for cache, t in zip(caches, new, strict=True)]
        real = torch.cat([real, new_real], 1)
        order = real_first(real)[0]
        keys, values, scores = (gather_tokens(cache, order) for cache in caches)
        real = real.gather(1, order)
        far_k, far_v, not_empty = self._mix_chunks(keys, values, scores, real)
        distance = position.unsqueeze(2) - torch.arange(keys.shape[2], device=q.device)
        near = real[:, None, :] & (distance >= 0) & (distance < self.window)
        weights = masked_softmax(
            q @ torch.cat([far_k, self.near_k(keys)], 2).transpose(-1, -2),
            torch.cat([self._ended(position, not_empty), near[:, None]], 3),
        )
        return weights @ torch.cat([far_v, self.near_v(values)], 2), (keys, values, scores, real)

    def _mixing_scores(self, y: Tensor) -> Tensor:
        """Return the scores of mixing: (batch, heads, m, rank)."""
        return torch.unflatten(self.mix(y), 2, (self.slot.heads, self.rank)).transpose(1, 2)

    def _mix_all(self, k: Tensor, v: Tensor, scores: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mixtures of all real keys and values, normed: (batch, heads, rank, ·)."""
        seen = None if key_mask is None else key_mask[:, None, None, :]
        weights = masked_softmax(scores.transpose(-1, -2), seen)
        return self.far_k(weights @ k), self.far_v(weights @ v)

    def _mix_chunks(
        self, k: Tensor, v: Tensor, scores: Tensor, key_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mixtures of each chunk, normed, and which chunks have a real token.

        The mixtures are (batch, heads, chunks * rank, ·), the mask is (batch or 1, chunks).
        """
        real = torch.ones(1, k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask
        seen = chunked(real[:, None, :, None], self.chunk).transpose(-1, -2)
        weights = masked_softmax(chunked(scores, self.chunk).transpose(-1, -2), seen)
        far_k, far_v = ((weights @ chunked(t, self.chunk)).flatten(2, 3) for t in (k, v))
        return self.far_k(far_k), self.far_v(far_v), seen.any(-1)[:, 0, :, 0]

    def _ended(self, position: Tensor, not_empty: Tensor) -> Tensor:
        """Return the mask of the mixtures that queries at positions (batch or 1, n) attend to.

        It is (batch or 1, 1, n, chunks * rank): those of chunks that have ended and are not empty.
        """
        ended = torch.arange(not_empty.shape[1], device=position.device) < (position // self.chunk).unsqueeze(2)
        return (ended & not_empty[:, None, :]).repeat_interleave(self.rank, 2)[:, None]


def _layer_norm(t: Tensor, norm: HeadNorm) -> Tensor:
    """Compute what `norm` must equal: t (1, heads, length, size) with mean 0 and variance 1, scaled and shifted."""
    centred = t - t.mean(-1, keepdim=True)
    out = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.scale
    return out if norm.shift is None else out + norm.shift
