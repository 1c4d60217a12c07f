"""Softmax attention by kernels that are not everywhere: flex_attention's generated ones, and the package flash-attn."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from cab.contracts.slot import Slot
from cab.errors import Unsupported

FLASH = (("cuda", torch.float16), ("cuda", torch.bfloat16))  # where flash-attn has kernels


def flex_refusal(slot: Slot) -> str:
    """Say why flex_attention does not compute this slot; nothing where it does."""
    if not torch.cuda.is_available():
        return "PyTorch's flex_attention has no backward on the CPU; use sdpa, tiled or eager"
    if min(slot.dim, slot.values) < 16:
        return f"flex_attention needs heads of at least 16 (dim={slot.dim}, value_dim={slot.values}); use sdpa"
    return ""


@cache
def flex(kind: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the compiled `flex_attention`, and what makes its block mask, for a kind of device."""
    from torch._dynamo import config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if kind == "cpu":
        raise Unsupported("PyTorch's flex_attention has no backward on the CPU; use sdpa, tiled or eager")
    # the whole graph: past the limit PyTorch would compute it unfused, and say so in a log only
    config.recompile_limit = max(config.recompile_limit, 64)
    return torch.compile(flex_attention, fullgraph=True), create_block_mask


def flex_softmax(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, key_mask: Tensor | None, slopes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return softmax attention and the log-sums of its scores (batch, heads, n); `slopes` are ALiBi's."""
    from torch.nn.attention.flex_attention import AuxRequest

    attention, block_mask = flex(q.device.type)

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
    if (q.device.type, q.dtype) not in FLASH:
        raise Unsupported(f"flash_attn computes in float16 and bfloat16 on CUDA, not in {q.dtype} on {q.device}")
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
