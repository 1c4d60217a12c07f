"""Softmax attention a tile of keys at a time, without the whole matrix of weights: online softmax.

Dao et al., arXiv 2205.14135: algorithm 1 forward, and backward from the log-sums with the weights computed again.
Memory is linear in the number of tokens, both ways.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FLOOR = -1e30  # the score of what is hidden: finite, since the difference of two infinities is not a number


def tiled_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    tile: int,
    key_mask: Tensor | None = None,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return softmax attention and the log-sums of its scores (batch, heads, n); q is scaled, `slopes` are ALiBi's.

    A row that sees nothing is zero, and its log-sum is `FLOOR`. 16-bit tensors are summed in float32.
    """
    out, total = _Tiled.apply(q, k, v, causal, tile, key_mask, slopes)  # type: ignore[no-untyped-call]
    return out, total


def tiled_pairs(n: int, m: int, causal: bool, tile: int) -> int:
    """Count the pairs of query and key for which `tiled_softmax` computes a score."""
    if not causal:
        return n * m
    return sum((n - start) * (min(start + tile, m) - start) for start in range(0, m, tile))


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        tile: int,
        key_mask: Tensor | None,
        slopes: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(q.dtype, torch.float32)
        batch, heads, n, _ = q.shape
        largest = torch.full((batch, heads, n, 1), FLOOR, dtype=wide, device=q.device)
        total = torch.zeros_like(largest)
        out = torch.zeros(batch, heads, n, v.shape[3], dtype=wide, device=q.device)
        for start in range(0, k.shape[2], tile):
            part, first = slice(start, start + tile), start if causal else 0
            scores, hidden = _scores(q, k, part, first, causal, key_mask, slopes)
            before = largest[:, :, first:]
            new = torch.maximum(before, scores.amax(-1, keepdim=True))
            weights = (scores - new).exp_()
            if hidden is not None:
                weights = weights.masked_fill(hidden, 0.0)
            kept = (before - new).exp_()
            largest[:, :, first:] = new
            total[:, :, first:].mul_(kept).add_(weights.sum(-1, keepdim=True))
            out[:, :, first:].mul_(kept).add_(weights.to(v.dtype) @ v[:, :, part])
        out = (out / total.where(total > 0, 1.0)).to(v.dtype)
        sums = (largest + total.where(total > 0, 1.0).log()).squeeze(-1)
        ctx.save_for_backward(q, k, v, key_mask, slopes, out, sums)
        ctx.causal, ctx.tile = causal, tile
        return out, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, of_sums: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, key_mask, slopes, out, sums = ctx.saved_tensors
        wide = sums.dtype
        of_q = torch.zeros_like(q, dtype=wide)
        of_k, of_v = torch.empty_like(k), torch.empty_like(v)
        row = (of_out.to(wide) * out).sum(-1, keepdim=True) - of_sums.unsqueeze(-1)
        for start in range(0, k.shape[2], ctx.tile):
            part, first = slice(start, start + ctx.tile), start if ctx.causal else 0
            scores, hidden = _scores(q, k, part, first, ctx.causal, key_mask, slopes)
            weights = (scores - sums[:, :, first:, None]).exp_()
            if hidden is not None:
                weights = weights.masked_fill(hidden, 0.0)
            late = of_out[:, :, first:]
            of_v[:, :, part] = weights.to(v.dtype).transpose(-1, -2) @ late
            of_scores = (weights * ((late @ v[:, :, part].transpose(-1, -2)) - row[:, :, first:])).to(q.dtype)
            of_q[:, :, first:] += of_scores @ k[:, :, part]
            of_k[:, :, part] = of_scores.transpose(-1, -2) @ q[:, :, first:]
        return of_q.to(q.dtype), of_k, of_v, None, None, None, None


def _scores(
    q: Tensor, k: Tensor, part: slice, first: int, causal: bool, key_mask: Tensor | None, slopes: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Score one tile of keys against the queries from `first` on; say what is hidden, which scores `FLOOR`."""
    tile = k[:, :, part]
    scores = (q[:, :, first:] @ tile.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32))
    away = torch.arange(first, q.shape[2], device=q.device).unsqueeze(1) - (
        torch.arange(tile.shape[2], device=q.device) + part.start
    )
    if slopes is not None:
        scores = scores - slopes[:, None, None] * away.abs()
    hidden = (away < 0) if causal else None
    if key_mask is not None:
        masked = ~key_mask[:, None, None, part]
        hidden = masked if hidden is None else hidden | masked
    return scores if hidden is None else scores.masked_fill(hidden, FLOOR), hidden
