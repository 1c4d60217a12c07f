"""Random arguments of a mechanism whose attention logits have a chosen spread, and softmax on the same arguments."""

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor

from cab.attention.random_inputs import RandomInputs
from cab.contracts.mechanism import Mechanism
from cab.errors import Unsupported

SPREADS = (0.5, 1.0, 2.0)  # standard deviations of q k^T / sqrt(dim): from nearly uniform to sharp attention


def spread_arguments(
    mechanism: Mechanism, inputs: RandomInputs, batch: int, n: int, m: int, spread: float
) -> dict[str, Tensor]:
    """Draw a mechanism's arguments, q and k scaled alike, so that q k^T / sqrt(dim) has standard deviation `spread`.

    `Unsupported` unless the mechanism reads q, k and v: softmax needs all three.
    """
    if not all(name in mechanism.reads for name in "qkv"):
        reads = ", ".join(mechanism.reads) or "none of them"
        raise Unsupported(f"softmax on the same weights needs q, k and v, and this mechanism reads {reads}")
    arguments = inputs.arguments(mechanism, batch, n, m)
    return arguments | {name: arguments[name] * sqrt(spread) for name in "qk"}


def softmax_weights(mechanism: Mechanism, arguments: Mapping[str, Tensor]) -> Tensor:
    """Return the weights (batch, heads, n, m), in float64, of softmax in the slot (arXiv 1706.03762, equation 1).

    A causal row of a self pattern sees no later key, and no row sees a masked one.
    """
    slot = mechanism.slot
    q, k = arguments["q"].double(), per_query_head(arguments["k"], slot.heads).double()
    logits = q @ k.transpose(2, 3) / sqrt(slot.dim)
    return logits.masked_fill(~visible_keys(mechanism, arguments), -torch.inf).softmax(-1)


def visible_keys(mechanism: Mechanism, arguments: Mapping[str, Tensor]) -> Tensor:
    """Return which keys softmax sees in the mechanism's slot, (1 or batch, 1, n, m)."""
    n, m = arguments["q"].shape[2], arguments["k"].shape[2]
    visible = torch.ones(1, 1, n, m, dtype=torch.bool, device=arguments["q"].device)
    if mechanism.slot.pattern.causal and not mechanism.slot.pattern.cross:
        visible = visible.tril()
    key_mask = arguments.get("key_mask")
    return visible if key_mask is None else visible & key_mask[:, None, None, :]


def per_query_head(t: Tensor, heads: int) -> Tensor:
    """Repeat key heads (batch, kv_heads, m, size), so that there is one for each of the `heads` query heads."""
    return t.repeat_interleave(heads // t.shape[1], 1)
