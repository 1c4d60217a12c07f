"""Gated linear attention: prefix sums of outer products that fade by a gate of each token and channel, in chunks.

Gates are logarithms of decay factors, at most zero. `gated_linear` reads q_i^T S_i, with the state

    S_i = diag(exp(gate_i)) S_(i-1) + k_i v_i^T

(GLA, arXiv 2312.06635, equation 3). `scalar_gated_linear` has one gate for all channels of a token (the structured
state-space duality of Mamba-2, arXiv 2405.21060), whose weights inside a chunk are one product. `gated_scores` reads
S_i q_i from a state whose rows are slots (gated slot attention, arXiv 2409.07146).

With B the inclusive prefix sums of the gates in a chunk, token i weighs token j of the same chunk by exp(B_i - B_j),
channel by channel. exp(B_i) exp(-B_j) would overflow, so the chunk is split in halves again and again, down to single
tokens. In each block of 2, 4, 8, ... tokens the second half reads the first, with M the B where the first half ends:
exp(B_i - M) exp(M - B_j). No exponent is above zero, whatever the gates are.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.precision import full_precision
from cab.ops.prefix import chunked, fit_chunk, outer_sum
from cab.ops.segment_scan import scan_segments


def gated_linear(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return q_i^T S_i where S_i = diag(exp(gate_i)) S_(i-1) + k_i v_i^T, and the last S; S_0 is `state`.

    q, k and gate are (batch, heads, n, features), v is (batch, heads, n, size), state is (batch, heads, features,
    size), the result is (batch, heads, n, size). `chunk` is a power of two. O(n (features + chunk) size) time, and
    memory linear in n.
    """
    chunk = fit_chunk(chunk, q.shape[2])
    with full_precision(q.device.type):  # a state that is rounded at each chunk loses small terms
        return scan_segments(partial(_linear_chunks, chunk=chunk), (q, k, v, gate), state, chunk)


def _linear_chunks(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    n = q.shape[2]
    q, k, v, gate_sums = *(chunked(t, chunk) for t in (q, k, v)), chunked(gate, chunk).cumsum(3)
    chunk_gate = gate_sums[:, :, :, -1:]
    updates = outer_sum(k * (chunk_gate - gate_sums).exp(), v)
    states, state = _states_before_chunks(updates, chunk_gate.exp().transpose(-1, -2), state)
    out = (q * gate_sums.exp()) @ states + (q * k).sum(-1, keepdim=True) * v
    for half, from_middle, to_middle in _halves(gate_sums):
        scores = (_second_halves(q, half) * from_middle) @ (_first_halves(k, half) * to_middle).transpose(-1, -2)
        out = out + _pad_first_halves(scores @ _first_halves(v, half))
    return out.flatten(2, 3)[:, :, :n], state


def scalar_gated_linear(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return q_i^T S_i where S_i = exp(gate_i) S_(i-1) + k_i v_i^T, and the last S; S_0 is `state`.

    Shapes as for `gated_linear`, but gate is (batch, heads, n, 1), and `chunk` is any number of tokens.
    """
    chunk = min(chunk, q.shape[2])
    with full_precision(q.device.type):
        return scan_segments(partial(_scalar_chunks, chunk=chunk), (q, k, v, gate), state, chunk)


def _scalar_chunks(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    n = q.shape[2]
    q, k, v, gate = (chunked(t, chunk) for t in (q, k, v, gate))
    fade, to_end = fade_factors(gate)
    from_start = gate.cumsum(3).exp()
    states, state = _states_before_chunks(outer_sum(k * to_end, v), from_start[:, :, :, -1:], state)
    out = (q * from_start) @ states + ((q @ k.transpose(-1, -2)) * fade) @ v
    return out.flatten(2, 3)[:, :, :n], state


def scalar_gated_flops(n: int, features: int, size: int, chunk: int) -> float:
    """Count the FLOPs of `scalar_gated_linear` for one head: two products in a chunk, two with the state."""
    chunk = min(chunk, n)
    return 2.0 * -(-n // chunk) * chunk * (chunk * (features + size) + 2 * features * size)


def fade_factors(gate: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is left of each token at each later one of its chunk, and at the chunk's end.

    Gates (batch, heads, chunks, chunk, 1) give exp(sum of the gates from j + 1 to i), (..., chunk i, chunk j), zero
    for j > i, and (..., chunk j, 1). The sums are no differences of prefix sums, which are inexact after a strong gate.
    """
    chunk = gate.shape[3]
    sums = gate.expand(*gate.shape[:4], chunk).tril(-1).cumsum(3)
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=gate.device).triu(1)
    return sums.masked_fill(future, -torch.inf).exp(), sums[:, :, :, -1:].mT.exp()


def gated_scores(q: Tensor, k: Tensor, write: Tensor, gate: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return S_i q_i where S_i = diag(exp(gate_i)) S_(i-1) + write_i k_i^T, and the last S, transposed like `state`.

    Each slot holds a key, gated on its own, and the result is the product of every query with every slot. q and k are
    (batch, heads, n, dim), write and gate are (batch, heads, n, slots), state is S_0 transposed, (batch, heads, dim,
    slots), the result is (batch, heads, n, slots). `chunk` is a power of two.
    """
    chunk = fit_chunk(chunk, q.shape[2])
    with full_precision(q.device.type):
        return scan_segments(partial(_score_chunks, chunk=chunk), (q, k, write, gate), state, chunk)


def _score_chunks(
    q: Tensor, k: Tensor, write: Tensor, gate: Tensor, state: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    n = q.shape[2]
    q, k, write, gate_sums = *(chunked(t, chunk) for t in (q, k, write)), chunked(gate, chunk).cumsum(3)
    chunk_gate = gate_sums[:, :, :, -1:]
    updates = outer_sum(k, write * (chunk_gate - gate_sums).exp())
    states, state = _states_before_chunks(updates, chunk_gate.exp(), state)
    out = (q @ states) * gate_sums.exp() + (q * k).sum(-1, keepdim=True) * write
    for half, from_middle, to_middle in _halves(gate_sums):
        products = _second_halves(q, half) @ _first_halves(k, half).transpose(-1, -2)
        out = out + _pad_first_halves((products @ (_first_halves(write, half) * to_middle)) * from_middle)
    return out.flatten(2, 3)[:, :, :n], state


def gated_flops(n: int, features: int, size: int, chunk: int) -> float:
    """Count the FLOPs of `gated_linear` or `gated_scores` for one head: two products with the state, two a halving."""
    chunk = fit_chunk(chunk, n)
    chunks = -(-n // chunk)
    return chunks * (4.0 * chunk * features * size + chunk * (chunk - 1) * (features + size))


def exclusive_suffix_sums(gate: Tensor) -> Tensor:
    """Sum the gates (batch, heads, n, ·) after each token: the logarithm of what is left of it at the end."""
    return F.pad(gate[:, :, 1:], (0, 0, 0, 1)).flip(2).cumsum(2).flip(2)


def _states_before_chunks(updates: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, and after the last: S_(c+1) = decay_c S_c + updates_c.

    updates is (batch, heads, chunks, rows, columns); decay broadcasts to it; a state has no axis of chunks.
    """
    states = [state]
    # not indexed: the backward of indexing is quadratic in the number of chunks
    for update, chunk_decay in zip(updates.unbind(2), decay.unbind(2), strict=True):
        states.append(torch.addcmul(update, chunk_decay, states[-1]))
    return torch.stack(states[:-1], 2), states[-1]


def _halves(gate_sums: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield half = 1, 2, 4, ... of blocks of 2 half tokens, with the two decay factors that meet in the middle.

    The factors are exp(B_i - M) of second halves and exp(M - B_j) of first halves, (batch, heads, chunks, blocks,
    half, ·).
    """
    half = 1
    while half < gate_sums.shape[3]:
        first, second = torch.unflatten(gate_sums, 3, (-1, 2, half)).unbind(4)
        middle = first[..., -1:, :]
        yield half, (second - middle).exp(), (middle - first).exp()
        half *= 2


def _first_halves(t: Tensor, half: int) -> Tensor:
    return torch.unflatten(t, 3, (-1, 2, half))[..., 0, :, :]


def _second_halves(t: Tensor, half: int) -> Tensor:
    return torch.unflatten(t, 3, (-1, 2, half))[..., 1, :, :]


def _pad_first_halves(t: Tensor) -> Tensor:
    """Put zeros before the second halves (batch, heads, chunks, blocks, half, ·), and join the blocks of a chunk."""
    return F.pad(t, (0, 0, t.shape[-2], 0)).flatten(3, 4)
