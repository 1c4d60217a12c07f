"""FlashAttention's algorithm in PyTorch: softmax attention a tile of keys at a time, without the matrix of weights.

Forward keeps a running maximum and sum of each row (online softmax). Backward computes the weights of a tile again from
the log-sums of the rows (Dao et al., arXiv 2205.14135, algorithms 1 and 4). Both take memory linear in the number of
tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cab.ops.precision import at_least_float32

FLOOR = -1e30  # the score of a masked key: finite, since the difference of two infinities is not a number


def tiled_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    tile: int,
    key_mask: Tensor | None = None,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return softmax attention (batch, heads, n, size) and the log-sums of its scores (batch, heads, n).

    q (batch, heads, n, dim) is scaled, k is (batch, heads, m, dim), v is (batch, heads, m, size), key_mask is (batch,
    m), slopes are ALiBi's, (heads,). A row that sees nothing is zero, and its log-sum is `FLOOR`. 16-bit tensors are
    summed in float32.
    """
    out, log_sum = _Tiled.apply(q, k, v, causal, tile, key_mask, slopes)  # type: ignore[no-untyped-call]
    return out, log_sum


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
        wide = at_least_float32(q)
        batch, heads, n, _ = q.shape
        maximum = torch.full((batch, heads, n, 1), FLOOR, dtype=wide, device=q.device)
        total = torch.zeros_like(maximum)  # of exp(score - maximum)
        out = torch.zeros(batch, heads, n, v.shape[3], dtype=wide, device=q.device)
        for start in range(0, k.shape[2], tile):
            keys, first = slice(start, start + tile), start if causal else 0  # queries before `first` see none of them
            scores, hidden = _scores(q, k, keys, first, causal, key_mask, slopes)
            old_maximum = maximum[:, :, first:]
            new_maximum = torch.maximum(old_maximum, scores.amax(-1, keepdim=True))
            weights = (scores - new_maximum).exp_()
            if hidden is not None:
                weights = weights.masked_fill(hidden, 0.0)
            rescale = (old_maximum - new_maximum).exp_()
            maximum[:, :, first:] = new_maximum
            total[:, :, first:].mul_(rescale).add_(weights.sum(-1, keepdim=True))
            out[:, :, first:].mul_(rescale).add_(weights.to(v.dtype) @ v[:, :, keys])
        out = (out / total.where(total > 0, 1.0)).to(v.dtype)
        log_sum = (maximum + total.where(total > 0, 1.0).log()).squeeze(-1)
        ctx.save_for_backward(q, k, v, key_mask, slopes, out, log_sum)
        ctx.causal, ctx.tile = causal, tile
        return out, log_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_log_sum: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, key_mask, slopes, out, log_sum = ctx.saved_tensors
        wide = log_sum.dtype
        grad_q = torch.zeros_like(q, dtype=wide)
        grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
        row_sum = (grad_out.to(wide) * out).sum(-1, keepdim=True) - grad_log_sum.unsqueeze(-1)
        for start in range(0, k.shape[2], ctx.tile):
            keys, first = slice(start, start + ctx.tile), start if ctx.causal else 0
            scores, hidden = _scores(q, k, keys, first, ctx.causal, key_mask, slopes)
            weights = (scores - log_sum[:, :, first:, None]).exp_()
            if hidden is not None:
                weights = weights.masked_fill(hidden, 0.0)
            grad_rows = grad_out[:, :, first:]
            grad_v[:, :, keys] = weights.to(v.dtype).transpose(-1, -2) @ grad_rows
            grad_weights = grad_rows @ v[:, :, keys].transpose(-1, -2)
            grad_scores = (weights * (grad_weights - row_sum[:, :, first:])).to(q.dtype)
            grad_q[:, :, first:] += grad_scores @ k[:, :, keys]
            grad_k[:, :, keys] = grad_scores.transpose(-1, -2) @ q[:, :, first:]
        return grad_q.to(q.dtype), grad_k, grad_v, None, None, None, None


def _scores(
    q: Tensor, k: Tensor, keys: slice, first: int, causal: bool, key_mask: Tensor | None, slopes: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the scores of the queries from `first` on with one tile of keys, and which of them are hidden.

    A hidden score is `FLOOR`. The second result broadcasts to the scores, and is None if none is hidden.
    """
    tile = k[:, :, keys]
    scores = (q[:, :, first:] @ tile.transpose(-1, -2)).to(at_least_float32(q))
    distance = torch.arange(first, q.shape[2], device=q.device).unsqueeze(1) - (
        torch.arange(tile.shape[2], device=q.device) + keys.start
    )
    if slopes is not None:
        scores = scores - slopes[:, None, None] * distance.abs()
    hidden = (distance < 0) if causal else None
    if key_mask is not None:
        masked = ~key_mask[:, None, None, keys]
        hidden = masked if hidden is None else hidden | masked
    return scores if hidden is None else scores.masked_fill(hidden, FLOOR), hidden
