"""Softmax attention by kernels that run on some devices only: PyTorch's flex_attention, and the package flash-attn.

Shapes: q (batch, heads, n, dim), k (batch, kv_heads, m, dim), v (batch, kv_heads, m, size), masks (batch, n) and
(batch, m), ALiBi's slopes (heads,).
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from cab.contracts.slot import Slot
from cab.errors import Unsupported

FLASH = (("cuda", torch.float16), ("cuda", torch.bfloat16))  # devices and dtypes for which flash-attn has kernels


def flex_refusal(slot: Slot) -> str:
    """Return why flex_attention does not compute this slot, or "" if it does."""
    if not torch.cuda.is_available():
        return "PyTorch's flex_attention has no backward on the CPU; use sdpa, tiled or eager"
    if min(slot.dim, slot.values) < 16:
        return f"flex_attention needs heads of at least 16 (dim={slot.dim}, value_dim={slot.values}); use sdpa"
    return ""


@cache
def flex(device_type: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the compiled `flex_attention` and `create_block_mask` for a type of device; `Unsupported` for the CPU."""
    from torch._dynamo import config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if device_type == "cpu":
        raise Unsupported("PyTorch's flex_attention has no backward on the CPU; use sdpa, tiled or eager")
    # past this limit PyTorch would compute it unfused and only log that; with fullgraph it raises an error
    config.recompile_limit = max(config.recompile_limit, 64)
    return torch.compile(flex_attention, fullgraph=True), create_block_mask


def flex_softmax(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, key_mask: Tensor | None, slopes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return softmax attention (batch, heads, n, size) and the log-sums of its scores (batch, heads, n)."""
    from torch.nn.attention.flex_attention import AuxRequest

    attention, create_block_mask = flex(q.device.type)

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        past = i >= j if causal else j >= 0
        return past if key_mask is None else past & key_mask[b, j]

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score if slopes is None else score - slopes[h] * (i - j).abs()

    block_mask = None
    if causal or key_mask is not None:
        batch = None if key_mask is None else q.shape[0]
        block_mask = create_block_mask(seen, batch, None, q.shape[2], k.shape[2], device=q.device)
    out, aux = attention(
        q, k, v, biased, block_mask, enable_gqa=k.shape[1] != q.shape[1], return_aux=AuxRequest(lse=True)
    )
    return out, aux.lse


def flash_refusal(slot: Slot, sinks: bool) -> str:
    """Return why flash-attn does not compute this slot, or "" if it does."""
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
    """Return softmax attention (batch, heads, n, size) by flash-attn; `Unsupported` for other devices and dtypes.

    With a mask, the real tokens of all samples are packed into one sequence of varying lengths.
    """
    if (q.device.type, q.dtype) not in FLASH:
        raise Unsupported(f"flash_attn computes in float16 and bfloat16 on CUDA, not in {q.dtype} on {q.device}")
    flash_attn = import_module("flash_attn")
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (batch, length, heads, size)
    if key_mask is None and query_mask is None:
        out: Tensor = flash_attn.flash_attn_func(q, k, v, causal=causal, alibi_slopes=slopes)
        return out.transpose(1, 2)
    queries = torch.ones(q.shape[:2], dtype=torch.bool, device=q.device) if query_mask is None else query_mask
    keys = torch.ones(k.shape[:2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask
    (q_borders, q_longest), (k_borders, k_longest) = _borders(queries), _borders(keys)
    packed = flash_attn.flash_attn_varlen_func(
        q[queries], k[keys], v[keys], q_borders, k_borders, q_longest, k_longest, causal=causal, alibi_slopes=slopes
    )
    out = torch.zeros_like(q).masked_scatter(queries[:, :, None, None], packed)
    return out.transpose(1, 2)


def _borders(mask: Tensor) -> tuple[Tensor, int]:
    """Return the borders of the samples in the packed sequence (batch + 1,), and the length of the longest sample."""
    lengths = mask.sum(1, dtype=torch.int32)
    borders = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return borders, int(lengths.max())
