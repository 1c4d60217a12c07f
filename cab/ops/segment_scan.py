"""A recurrence over chunks, one segment of the sequence after another, so that intermediate tensors stay small."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

SEGMENTS = 8  # at most
State = TypeVar("State")


def scan_segments(
    step: Callable[..., tuple[Tensor, State]], tensors: Sequence[Tensor], state: State, chunk: int
) -> tuple[Tensor, State]:
    """Return step(*tensors, state), computed for one segment of whole chunks after another.

    `step` takes tensors (batch, heads, n, ·) and the state before them. It returns a result (batch, heads, n, ·) and
    the state after them.

    There is one segment while autograd records, since backward needs all intermediate tensors anyway. There is one in
    compiled code, which would otherwise be `SEGMENTS` times as long.
    """
    n = tensors[0].shape[2]
    size = max(2 * chunk, -(-n // (SEGMENTS * chunk)) * chunk)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or n <= size:
        return step(*tensors, state)
    out: Tensor | None = None
    for start in range(0, n, size):
        segment_out, state = step(*(t[:, :, start : start + size] for t in tensors), state)
        if out is None:
            out = segment_out.new_empty(*segment_out.shape[:2], n, segment_out.shape[3])
        out[:, :, start : start + size] = segment_out
    assert out is not None
    return out, state
