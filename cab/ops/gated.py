"""Linear attention that forgets at a rate of its own at each token: gated prefix sums, in chunks, safe for any gate.

A gate is the logarithm of what is kept, at most zero. Inside a chunk a block reads the block before it, then twice as
wide each (binary splitting), with what was kept since the border between the two: every exponent is at most zero.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.pieces import in_pieces
from cab.ops.precision import full_precision
from cab.ops.prefix import chunked, fit_chunk, outer_sum


def gated_linear(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return q_i^T S_i where S_i = diag(exp(gate_i)) S_(i-1) + k_i v_i^T, and the last S; S_0 is `state`.

    q, k and gate are (batch, heads, n, features), v is (batch, heads, n, size), state is (batch, heads, features,
    size). `chunk` is a power of two. O(n (features + chunk) size) time, memory linear in n.
    """
    chunk = fit_chunk(chunk, q.shape[2])
    with full_precision(q.device.type):  # a state rounded at each chunk would forget what is small
        return in_pieces(partial(_linear, chunk=chunk), (q, k, v, gate), state, chunk)


def _linear(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor, *, chunk: int) -> tuple[Tensor, Tensor]:
    n = q.shape[2]
    q, k, v, since = *(chunked(t, chunk) for t in (q, k, v)), chunked(gate, chunk).cumsum(3)
    end = since[:, :, :, -1:]
    gained = outer_sum(k * (end - since).exp(), v)
    before, state = _carried(gained, end.exp().transpose(-1, -2), state)
    out = (q * since.exp()) @ before + (q * k).sum(-1, keepdim=True) * v
    for half, second, first in _halves(since):
        weights = (_second(q, half) * second) @ (_first(k, half) * first).transpose(-1, -2)
        out = out + _after(weights @ _first(v, half))
    return out.flatten(2, 3)[:, :, :n], state


def gated_scores(q: Tensor, k: Tensor, write: Tensor, gate: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return S_i q_i where S_i = diag(exp(gate_i)) S_(i-1) + write_i k_i^T, and the last S transposed, as `state` is.

    q and k are (batch, heads, n, dim), write and gate are (batch, heads, n, slots), state is (batch, heads, dim,
    slots): each slot holds a key, gated on its own, and the result is every query's product with every slot.
    """
    chunk = fit_chunk(chunk, q.shape[2])
    with full_precision(q.device.type):
        return in_pieces(partial(_scores, chunk=chunk), (q, k, write, gate), state, chunk)


def _scores(q: Tensor, k: Tensor, write: Tensor, gate: Tensor, state: Tensor, *, chunk: int) -> tuple[Tensor, Tensor]:
    n = q.shape[2]
    q, k, write, since = *(chunked(t, chunk) for t in (q, k, write)), chunked(gate, chunk).cumsum(3)
    end = since[:, :, :, -1:]
    gained = outer_sum(k, write * (end - since).exp())
    before, state = _carried(gained, end.exp(), state)
    out = (q @ before) * since.exp() + (q * k).sum(-1, keepdim=True) * write
    for half, second, first in _halves(since):
        products = _second(q, half) @ _first(k, half).transpose(-1, -2)
        out = out + _after((products @ (_first(write, half) * first)) * second)
    return out.flatten(2, 3)[:, :, :n], state


def gated_flops(n: int, features: int, size: int, chunk: int) -> float:
    """Count what `gated_linear` or `gated_scores` executes for one head: two products with the state, and inside."""
    chunk = fit_chunk(chunk, n)
    chunks = -(-n // chunk)
    return chunks * (4.0 * chunk * features * size + chunk * (chunk - 1) * (features + size))


def after(gate: Tensor) -> Tensor:
    """Sum the gates that come after each token: what is kept of it at the end, as a logarithm."""
    return F.pad(gate[:, :, 1:], (0, 0, 0, 1)).flip(2).cumsum(2).flip(2)


def _carried(gained: Tensor, kept: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, and after the last."""
    states = [state]
    for new, share in zip(gained.unbind(2), kept.unbind(2), strict=True):  # indexed, backward would be quadratic
        states.append(torch.addcmul(new, share, states[-1]))
    return torch.stack(states[:-1], 2), states[-1]


def _halves(since: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield for each width of half a block: what second halves kept since the middle, and the middle of first ones."""
    half = 1
    while half < since.shape[3]:
        first, second = torch.unflatten(since, 3, (-1, 2, half)).unbind(4)
        middle = first[..., -1:, :]
        yield half, (second - middle).exp(), (middle - first).exp()
        half *= 2


def _first(t: Tensor, half: int) -> Tensor:
    return torch.unflatten(t, 3, (-1, 2, half))[..., 0, :, :]


def _second(t: Tensor, half: int) -> Tensor:
    return torch.unflatten(t, 3, (-1, 2, half))[..., 1, :, :]


def _after(t: Tensor) -> Tensor:
    """Put what second halves got (batch, heads, chunks, blocks, half, ·) into place."""
    return F.pad(t, (0, 0, t.shape[-2], 0)).flatten(3, 4)
