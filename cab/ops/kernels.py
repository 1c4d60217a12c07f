"""Softmax attention by kernels that are not everywhere: flex_attention's generated ones, and the package flash-attn."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from cab.contracts.slot import Slot


@cache
def flex() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the compiled `flex_attention`, and what makes its block mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    return torch.compile(flex_attention, dynamic=False), create_block_mask


def flex_softmax(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, key_mask: Tensor | None, slopes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return softmax attention and the log-sums of its scores (batch, heads, n); `slopes` are ALiBi's."""
    from torch.nn.attention.flex_attention import AuxRequest

    attention, block_mask = flex()

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        past = i >= j if causal else j >= 0
        return past if key_mask is None else past & key_mask[b, j]

    def lowered(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score if slopes is None else score - slopes[h] * (i - j).abs()

    blocks = None
    if causal or key_mask is not None:
        batch = None if key_mask is None else q.shape[0]
        blocks = block_mask(seen, batch, None, q.shape[2], k.shape[2], device=q.device)
    out, more = attention(
        q, k, v, lowered, blocks, enable_gqa=k.shape[1] != q.shape[1], return_aux=AuxRequest(lse=True)
    )
    return out, more.lse


def flash_refusal(slot: Slot, sinks: bool) -> str:
    """Say why flash-attn does not compute this slot; nothing where it does."""
    try:
        import_module("flash_attn")
    except ImportError as error:
        return f"flash_attn cannot be imported ({error}); use sdpa, or install flash-attn where there is CUDA"
    if slot.values != slot.dim:
        return f"flash_attn needs values of the queries' size (value_dim={slot.values}, dim={slot.dim}); use sdpa"
    return "flash_attn has no sink logits; use sdpa, tiled or flex" if sinks else ""


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    key_mask: Tensor | None,
    query_mask: Tensor | None,
    slopes: Tensor | None,
) -> Tensor:
    """Return softmax attention by flash-attn: the real tokens of all samples in one row, where some are masked."""
    flash_attn = import_module("flash_attn")
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (batch, length, heads, size)
    if key_mask is None and query_mask is None:
        out: Tensor = flash_attn.flash_attn_func(q, k, v, causal=causal, alibi_slopes=slopes)
        return out.transpose(1, 2)
    queries = torch.ones(q.shape[:2], dtype=torch.bool, device=q.device) if query_mask is None else query_mask
    keys = torch.ones(k.shape[:2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask
    (q_ends, q_most), (k_ends, k_most) = _ends(queries), _ends(keys)
    packed = flash_attn.flash_attn_varlen_func(
        q[queries], k[keys], v[keys], q_ends, k_ends, q_most, k_most, causal=causal, alibi_slopes=slopes
    )
    out = torch.zeros_like(q).masked_scatter(queries[:, :, None, None], packed)
    return out.transpose(1, 2)


def _ends(mask: Tensor) -> tuple[Tensor, int]:
    """Return where each sample of the packed row begins and ends, and the longest one."""
    lengths = mask.sum(1, dtype=torch.int32)
    ends = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return ends, int(lengths.max())
