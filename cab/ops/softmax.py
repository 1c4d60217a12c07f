"""Softmax over the keys that a query may see, safe where it sees none."""

import torch
from torch import Tensor

from cab.contracts.pattern import Pattern


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
    # a finite fill: minus infinity in a whole row gives NaN, and its gradient poisons every parameter
    weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~seen, 0.0)


def repeat_heads(t: Tensor, heads: int) -> Tensor:
    """Give each query head its key head: (batch, kv_heads, ...) to (batch, heads, ...)."""
    return t if t.shape[1] == heads else t.repeat_interleave(heads // t.shape[1], 1)
