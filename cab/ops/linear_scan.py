"""A linear recurrence of each channel for itself, h_t = a_t h_(t-1) + b_t, without a loop over the tokens.

The sequence is cut into chunks. Position after position, in all chunks at once, two numbers of each chunk are carried:
what it adds, and what it leaves of the state before it. A loop over the chunks gives the state before each one. From
there the recurrence runs again in all chunks at once, and every state is written. With a in [0, 1] nothing overflows.

Compiled code would be as long as the loops, so it doubles a distance instead: a token takes over what was gathered by
the one 1, 2, 4, ... places before it.

The gradient with respect to h, G_t = g_t + a_(t+1) G_(t+1), is the same recurrence backwards. It is the gradient of b,
and G_t h_(t-1) is that of a.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cab.ops.autograd import fresh_view
from cab.ops.prefix import chunked


def linear_scan(decay: Tensor, addend: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return h_t = decay_t h_(t-1) + addend_t for every token, and the last one; h_0 is `state`.

    decay and addend are (batch, heads, n, channels), state is (batch, heads, channels). Time and memory are linear in
    n.
    """
    n, chunk = decay.shape[2], min(chunk, decay.shape[2])
    decay, addend = chunked(decay, chunk, fill=1.0), chunked(addend, chunk)
    if torch.is_grad_enabled():
        states: Tensor = _Scan.apply(decay, addend, state)  # type: ignore[no-untyped-call]
    else:
        states = _run(decay, addend, state)
    return states.flatten(2, 3)[:, :, :n], states[:, :, -1, -1]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, addend: Tensor, state: Tensor) -> Tensor:
        states = _run(decay, addend, state)
        ctx.save_for_backward(decay, state, states)
        return fresh_view(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, state, states = ctx.saved_tensors
        shape, one = decay.shape, torch.ones_like(decay[:, :, 0, :1])
        next_decay = torch.cat([decay.flatten(2, 3)[:, :, 1:], one], 2).view(shape)
        grad_addend = _run(next_decay, grad, torch.zeros_like(state), reverse=True)
        before = torch.cat([state.unsqueeze(2), states.flatten(2, 3)[:, :, :-1]], 2).view(shape)
        return grad_addend * before, grad_addend, grad_addend[:, :, 0, 0] * decay[:, :, 0, 0]


def _run(decay: Tensor, addend: Tensor, state: Tensor, reverse: bool = False) -> Tensor:
    """Return h of every token, (batch, heads, chunks, chunk, channels); with `reverse` the last token comes first."""
    if torch.compiler.is_compiling():
        return _run_by_doubling(decay, addend, state, reverse)
    step = -1 if reverse else 1
    decays, addends = decay.unbind(3)[::step], addend.unbind(3)[::step]
    added, kept = addends[0], decays[0]
    for one_decay, one_addend in zip(decays[1:], addends[1:], strict=True):
        added, kept = torch.addcmul(one_addend, one_decay, added), kept * one_decay
    states = [state]
    for one_added, one_kept in zip(added.unbind(2)[::step], kept.unbind(2)[::step], strict=True):
        states.append(torch.addcmul(one_added, one_kept, states[-1]))
    h, out = torch.stack(states[:-1][::step], 2), torch.empty_like(addend)
    for target, one_decay, one_addend in zip(out.unbind(3)[::step], decays, addends, strict=True):
        h = torch.addcmul(one_addend, one_decay, h)
        target.copy_(h)
    return out


def _run_by_doubling(decay: Tensor, addend: Tensor, state: Tensor, reverse: bool) -> Tensor:
    """Return the same as `_run`, in log2(n) steps over all tokens."""
    shape, decay, addend, distance = decay.shape, decay.flatten(2, 3), addend.flatten(2, 3), 1
    before, rest = state.unsqueeze(2), torch.zeros_like(addend[:, :, 1:])
    addend = addend + decay * torch.cat([rest, before] if reverse else [before, rest], 2)
    while distance < decay.shape[2]:
        if reverse:
            gathered, kept = (F.pad(t[:, :, distance:], (0, 0, 0, distance)) for t in (addend, decay))
        else:
            gathered, kept = (F.pad(t[:, :, :-distance], (0, 0, distance, 0)) for t in (addend, decay))
        addend, decay, distance = addend + decay * gathered, decay * kept, 2 * distance
    return addend.view(shape)
