"""Softmax over the keys that a query may see, safe where it sees none."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cab.contracts.pattern import Pattern
from cab.ops.autograd import fresh_view
from cab.ops.stretches import added_back, beside

# of queries, keys and values (batch, heads, blocks, tokens, ·) and what each query sees (None: everything)
Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

FLOOR = -1e30  # the score of what is hidden: finite, since the difference of two infinities is not a number
SELF = -5e4  # the score of a token with itself, where it counts only if nothing else is seen


def visible(pattern: Pattern, n: int, m: int, key_mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Return what each query may see, boolean and broadcastable to (batch, heads, n, m), or None for everything."""
    causal = pattern is Pattern.CS
    seen = torch.ones(n, m, dtype=torch.bool, device=device).tril() if causal else None
    if key_mask is None:
        return seen
    real = key_mask[:, None, None, :]
    return real if seen is None else real & seen


def masked_softmax(scores: Tensor, seen: Tensor | None) -> Tensor:
    """Softmax over the last axis of `scores` where `seen`; a row that sees nothing is zero, with zero gradient."""
    if seen is None:
        return scores.softmax(-1)
    weights: Tensor = _MaskedSoftmax.apply(scores, seen)  # type: ignore[no-untyped-call]
    return weights


class _MaskedSoftmax(torch.autograd.Function):
    """Keeps the weights alone for backward: what is hidden has weight zero, and so no gradient."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, seen: Tensor) -> Tensor:
        # a finite fill: minus infinity in a whole row gives NaN; what is hidden among seen keys is exactly zero
        weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
        weights.mul_(seen.any(-1, keepdim=True))
        ctx.save_for_backward(weights)
        return fresh_view(weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_weights: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return torch._softmax_backward_data(of_weights, weights, -1, weights.dtype), None


def repeat_heads(t: Tensor, heads: int) -> Tensor:
    """Give each query head its key head: (batch, kv_heads, ...) to (batch, heads, ...)."""
    return t if t.shape[1] == heads else t.repeat_interleave(heads // t.shape[1], 1)


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, own: Tensor | None = None, before: int = 0, after: int = 0
) -> tuple[Tensor, Tensor]:
    """Return softmax attention over the keys that are `seen`, and the log-sums of the scores (..., n, 1); q is scaled.

    With `before` and `after`, tensors are blocks (batch, heads, blocks, tokens, ·), and a block of queries reads the
    blocks of keys beside its own too. Pairs in `own` score `SELF`. A row that sees nothing is zero, and its log-sum is
    near `FLOOR`. The weights are the only large tensor that is kept for backward. 16-bit scores are summed in float32.
    """
    out, total = _Attention.apply(q, k, v, seen, own, before, after)  # type: ignore[no-untyped-call]
    return out, total


def written_out(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Return softmax attention in blocks (batch, heads, blocks, tokens, ·) over the keys that are `seen`."""
    return masked_attention(q * q.shape[-1] ** -0.5, k, v, seen)[0]


def fused(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Return the same as `written_out` by PyTorch's fused kernels, which keep no weights for backward."""
    batch, heads, blocks = q.shape[:3]
    if seen is None:  # every block a sample with one head: the kernel lays out heads innermost, which would be copied
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
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, own: Tensor | None, before: int, after: int
    ) -> tuple[Tensor, Tensor]:
        ctx.types = q.dtype, k.dtype, v.dtype
        # autocast may hand over several types, and its products take them; backward runs outside of it
        shared = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        q, k, v = q.to(shared), k.to(shared), v.to(shared)
        scores = (q @ beside(k, before, after).transpose(-1, -2)).to(torch.promote_types(shared, torch.float32))
        if own is not None:
            scores.masked_fill_(own, SELF)
        if seen is not None:
            scores.masked_fill_(~seen, FLOOR)
        weights = scores.softmax(-1)
        largest, most = scores.amax(-1, keepdim=True), weights.amax(-1, keepdim=True)
        del scores
        blind = largest < FLOOR / 2
        out = (weights.to(v.dtype) @ beside(v, before, after)).masked_fill_(blind, 0.0)
        ctx.save_for_backward(q, k, v, weights, out, blind, own)
        ctx.stretch = before, after
        return fresh_view(out), largest - most.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, of_total: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, out, blind, own = ctx.saved_tensors
        of_out = of_out.to(v.dtype).masked_fill(blind, 0.0)  # under autocast of another type
        row = (of_out * out).sum(-1, keepdim=True, dtype=weights.dtype) - of_total.masked_fill(blind, 0.0)
        of_v = weights.to(v.dtype).transpose(-1, -2) @ of_out
        of_weights = (of_out @ beside(v, *ctx.stretch).transpose(-1, -2)).to(weights.dtype)
        of_scores = of_weights.sub_(row).mul_(weights).to(q.dtype)
        if own is not None:
            of_scores.masked_fill_(own, 0.0)
        of_k = added_back(of_scores.transpose(-1, -2) @ q, *ctx.stretch)
        of_q = of_scores @ beside(k, *ctx.stretch)
        of_v = added_back(of_v, *ctx.stretch)
        of_q, of_k, of_v = (t.to(kind) for t, kind in zip((of_q, of_k, of_v), ctx.types, strict=True))
        return of_q, of_k, of_v, None, None, None, None
