"""Softmax over the keys that a query may attend to, zero where there are none.

A mask `seen` is boolean and broadcasts to the scores, (..., queries, keys): True where the query attends to the key.
None stands for all True.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cab.contracts.pattern import Pattern
from cab.ops.autograd import fresh_view
from cab.ops.neighbour_blocks import sum_neighbours, with_neighbours

# of queries, keys and values (batch, heads, blocks, tokens, ·), and a mask `seen`
BlockAttention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

FLOOR = -1e30  # the score of a masked key: finite, since the difference of two infinities is not a number
SELF_SCORE = -5e4  # the score of a token with itself, where it counts only if nothing else is seen


def visible(pattern: Pattern, n: int, m: int, key_mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Return the mask of the keys that each query may attend to, broadcastable to (batch, heads, n, m).

    key_mask is (batch, m). The result is None if every query attends to every key.
    """
    causal = pattern is Pattern.CS
    seen = torch.ones(n, m, dtype=torch.bool, device=device).tril() if causal else None
    if key_mask is None:
        return seen
    real = key_mask[:, None, None, :]
    return real if seen is None else real & seen


def masked_softmax(scores: Tensor, seen: Tensor | None) -> Tensor:
    """Return the softmax over the last axis of `scores` where `seen`.

    A row that sees nothing is zero, and so is its gradient.
    """
    if seen is None:
        return scores.softmax(-1)
    weights: Tensor = _MaskedSoftmax.apply(scores, seen)  # type: ignore[no-untyped-call]
    return weights


class _MaskedSoftmax(torch.autograd.Function):
    """It saves the weights alone for backward: a masked key has a weight of zero, and so a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, seen: Tensor) -> Tensor:
        # a finite fill, since a row of minus infinity gives NaN; beside seen keys the weight still underflows to 0
        weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
        weights.mul_(seen.any(-1, keepdim=True))
        ctx.save_for_backward(weights)
        return fresh_view(weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_weights: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype), None


def repeat_heads(t: Tensor, heads: int) -> Tensor:
    """Repeat key heads for the query heads that share them: (batch, kv_heads, ...) to (batch, heads, ...)."""
    return t if t.shape[1] == heads else t.repeat_interleave(heads // t.shape[1], 1)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Return softmax attention (batch, heads, n, size), its weights written out. q is not scaled yet.

    k and v may have fewer heads, which consecutive query heads share.
    """
    return softmax_weights(q, k, seen) @ repeat_heads(v, q.shape[1])


def softmax_weights(q: Tensor, k: Tensor, seen: Tensor | None) -> Tensor:
    """Return the weights of `softmax_attention`, (batch, heads, n, m)."""
    return masked_softmax((q * q.shape[-1] ** -0.5) @ repeat_heads(k, q.shape[1]).mT, seen)


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor | None,
    self_pairs: Tensor | None = None,
    before: int = 0,
    after: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return softmax attention over the keys that are `seen`, and the log-sums of the scores (..., n, 1).

    q (..., n, dim) is scaled, k is (..., m, dim), v is (..., m, size). With `before` and `after`, tensors are blocks
    (batch, heads, blocks, block, ·), and a block of queries also attends to that many blocks of keys beside its own.
    `self_pairs` is a mask of pairs that score `SELF_SCORE`. A row that sees nothing is zero, and its log-sum is near
    `FLOOR`. The weights are the only tensor of (n, m) that is saved for backward. 16-bit scores are summed in float32.
    """
    out, log_sum = _Attention.apply(q, k, v, seen, self_pairs, before, after)  # type: ignore[no-untyped-call]
    return out, log_sum


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Return softmax attention in blocks (batch, heads, blocks, tokens, ·), with the weights as a tensor."""
    return masked_attention(q * q.shape[-1] ** -0.5, k, v, seen)[0]


def fused_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Return the same as `explicit_attention` by PyTorch's fused kernels, which save no weights for backward."""
    batch, heads, blocks = q.shape[:3]
    if seen is None:  # each block is a sample with one head: an output of several heads would be copied to this layout
        q, k, v = (t.flatten(0, 2).unsqueeze(1) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return torch.unflatten(out.squeeze(1), 0, (batch, heads, blocks))
    seen = seen[0] if seen.shape[:2] == (1, 1) else seen.expand(batch, heads, -1, -1, -1).flatten(0, 1)
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return torch.unflatten(out, 0, (batch, heads))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        seen: Tensor | None,
        self_pairs: Tensor | None,
        before: int,
        after: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.input_dtypes = q.dtype, k.dtype, v.dtype
        # under autocast the inputs may have several dtypes, and backward runs outside of autocast: compute in one
        shared = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        q, k, v = q.to(shared), k.to(shared), v.to(shared)
        scores = (q @ with_neighbours(k, before, after).transpose(-1, -2)).to(
            torch.promote_types(shared, torch.float32)
        )
        if self_pairs is not None:
            scores.masked_fill_(self_pairs, SELF_SCORE)
        if seen is not None:
            scores.masked_fill_(~seen, FLOOR)
        weights = scores.softmax(-1)
        max_score, max_weight = scores.amax(-1, keepdim=True), weights.amax(-1, keepdim=True)
        del scores
        sees_none = max_score < FLOOR / 2
        out = (weights.to(v.dtype) @ with_neighbours(v, before, after)).masked_fill_(sees_none, 0.0)
        ctx.save_for_backward(q, k, v, weights, out, sees_none, self_pairs)
        ctx.neighbours = before, after
        return fresh_view(out), max_score - max_weight.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_log_sum: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, out, sees_none, self_pairs = ctx.saved_tensors
        grad_out = grad_out.to(v.dtype).masked_fill(sees_none, 0.0)  # under autocast it may have another dtype
        row_sum = (grad_out * out).sum(-1, keepdim=True, dtype=weights.dtype)
        row_sum = row_sum - grad_log_sum.masked_fill(sees_none, 0.0)
        grad_v = weights.to(v.dtype).transpose(-1, -2) @ grad_out
        grad_weights = (grad_out @ with_neighbours(v, *ctx.neighbours).transpose(-1, -2)).to(weights.dtype)
        grad_scores = grad_weights.sub_(row_sum).mul_(weights).to(q.dtype)
        if self_pairs is not None:
            grad_scores.masked_fill_(self_pairs, 0.0)
        grad_k = sum_neighbours(grad_scores.transpose(-1, -2) @ q, *ctx.neighbours)
        grad_q = grad_scores @ with_neighbours(k, *ctx.neighbours)
        grad_v = sum_neighbours(grad_v, *ctx.neighbours)
        grads = zip((grad_q, grad_k, grad_v), ctx.input_dtypes, strict=True)
        grad_q, grad_k, grad_v = (grad.to(dtype) for grad, dtype in grads)
        return grad_q, grad_k, grad_v, None, None, None, None
