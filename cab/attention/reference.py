"""What a mechanism's `reference` says of a whole batch.

A reference is written for one sample: on sequences it gets the sample's real tokens only, without masks, because a
masked token is one that is not there; on rasters it gets one sample with its masks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cab.contracts.mechanism import Mechanism


def by_reference(
    mechanism: Mechanism,
    q: Tensor | None,
    k: Tensor | None,
    v: Tensor | None,
    key_mask: Tensor | None = None,
    query_mask: Tensor | None = None,
    **inputs: Tensor,
) -> Tensor:
    """Compute what `attend` must equal, from the same arguments: (batch, heads, queries, value_dim).

    Where the author wrote no reference (every shipped mechanism has one, a test says) eager `attend` stands in, so that
    other backends are still held to it.
    """
    reference: Callable[..., Tensor] = mechanism.reference if mechanism.defines("reference") else mechanism.attend
    slot = mechanism.slot
    if not slot.pattern.cross:
        query_mask = key_mask
    whole = {"q": q, "k": k, "v": v, **inputs}
    n = _queries(mechanism, whole, query_mask)
    masks = {"key_mask": key_mask, "query_mask": query_mask}
    batch = next(t.shape[0] for t in (*whole.values(), *masks.values()) if t is not None)
    rows = []
    for i in range(batch):
        sample = {name: None if t is None else t[i : i + 1] for name, t in whole.items()}
        own_masks = {name: mask[i : i + 1] for name, mask in masks.items() if mask is not None}
        if slot.raster or slot.source_raster:
            rows.append(reference(**sample, **own_masks))
        else:
            rows.append(_of_real_tokens(mechanism, reference, sample, own_masks, n))
    return torch.cat(rows)


def _of_real_tokens(
    mechanism: Mechanism,
    reference: Callable[..., Tensor],
    sample: dict[str, Tensor | None],
    masks: dict[str, Tensor],
    n: int,
) -> Tensor:
    """Call the reference on one sample's real tokens; rows of masked queries are zero."""
    real: dict[str, Tensor | None] = {name: mask[0] for name, mask in masks.items()}
    real_queries, real_keys = real.get("query_mask"), real.get("key_mask")
    if any(mask is not None and not mask.any() for mask in (real_queries, real_keys)):
        like = next(t for t in (*sample.values(), *masks.values()) if t is not None)
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        return torch.zeros(1, mechanism.slot.heads, n, mechanism.slot.values, dtype=dtype, device=like.device)
    arguments: dict[str, Any] = {}
    for name, t in sample.items():
        mask = real_queries if _axis(mechanism, name) == "queries" else real_keys
        keep = slice(None) if mask is None else mask
        arguments[name] = t if t is None else t[:, :, keep] if name in ("q", "k", "v") else t[:, keep]
    if not _tells_queries(mechanism, arguments):
        count = n if real_queries is None else int(real_queries.sum())
        device = next(t.device for t in (*sample.values(), *masks.values()) if t is not None)
        arguments["query_mask"] = torch.ones(1, count, dtype=torch.bool, device=device)
    out = reference(**arguments)
    if real_queries is None:
        return out
    padded = out.new_zeros(*out.shape[:2], n, out.shape[3])
    padded[:, :, real_queries] = out
    return padded


def _queries(mechanism: Mechanism, tensors: dict[str, Tensor | None], query_mask: Tensor | None) -> int:
    if query_mask is not None:
        return query_mask.shape[1]
    for name, t in tensors.items():
        if t is not None and (_axis(mechanism, name) == "queries" or not mechanism.slot.pattern.cross):
            return t.shape[2 if name in ("q", "k", "v") else 1]
    raise ValueError("the number of queries is not known: give query_mask where q is not read")


def _tells_queries(mechanism: Mechanism, arguments: dict[str, Any]) -> bool:
    """Whether a tensor of the arguments tells how many queries there are."""
    self_pattern = not mechanism.slot.pattern.cross
    return any(t is not None and (self_pattern or _axis(mechanism, name) == "queries") for name, t in arguments.items())


def _axis(mechanism: Mechanism, name: str) -> str:
    if name in mechanism.inputs:
        return str(mechanism.inputs[name].axis)
    return "queries" if name == "q" else "keys"
