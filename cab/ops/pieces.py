"""Recurrences over chunks, in a few pieces of the sequence one after another, so that what lies between stays small."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

PIECES = 8
State = TypeVar("State")


def in_pieces(
    carry: Callable[..., tuple[Tensor, State]], tensors: Sequence[Tensor], state: State, chunk: int
) -> tuple[Tensor, State]:
    """Return carry(*tensors, state), which may be called for stretches of whole chunks in turn.

    It takes tensors (batch, heads, n, ·) and the state before them, and gives a result and the state after.
    Only where no graph is recorded: for backward everything is kept anyway, and code that is compiled would be as many
    times as long.
    """
    n = tensors[0].shape[2]
    size = max(2 * chunk, -(-n // (PIECES * chunk)) * chunk)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or n <= size:
        return carry(*tensors, state)
    out: Tensor | None = None
    for start in range(0, n, size):
        part, state = carry(*(t[:, :, start : start + size] for t in tensors), state)
        if out is None:
            out = part.new_empty(*part.shape[:2], n, part.shape[3])
        out[:, :, start : start + size] = part
    assert out is not None
    return out, state
