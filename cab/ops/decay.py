"""Linear attention that forgets at a fixed rate: sums of outer products, fading by head, in chunks."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cab.ops.pieces import in_pieces
from cab.ops.prefix import chunked, outer_sum

Map = Callable[[Tensor], Tensor]


def fading_linear(
    q: Tensor, k: Tensor, v: Tensor, rate: Tensor, chunk: int, both: bool = False, through: Map = Tensor.contiguous
) -> Tensor:
    """Return sum over j <= i of exp(-rate (i - j)) (q_i . k_j) v_j; with `both`, over all j, by |i - j|.

    q and k are (batch, heads, n, dim), v is (batch, heads, n, size), rate is (heads,) and not negative. The block form
    of arXiv 2401.04658: scores inside a chunk, one state (dim, size) for what lies before it (and one for what lies
    after). Every factor is a power of a decay, at most 1. q, k and v go `through` a map of each token first.
    """
    chunk = min(chunk, q.shape[2])
    if both:
        return _summed(q, k, v, None, rate, chunk, both, through)[0]
    carry = partial(_summed, rate=rate, chunk=chunk, both=False, through=through)
    return in_pieces(carry, (q, k, v), None, 2 * chunk)[0]  # longer pieces: a chunk is only two products


def _summed(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, rate: Tensor, chunk: int, both: bool, through: Map
) -> tuple[Tensor, Tensor | None]:
    """Return the sums, and the state after the last token; None stands for one of zeros."""
    n = q.shape[2]
    q, k, v = (chunked(through(t), chunk) for t in (q, k, v))
    read = None
    if q.shape[2] > 1 or state is not None:
        place = torch.arange(chunk, device=q.device)
        since = powers(rate, place + 1, q).unsqueeze(1)  # since the last token of the chunk before
        until = powers(rate, chunk - 1 - place, q).unsqueeze(1)  # until the last token of this one
        whole = (-rate * chunk).exp().view(-1, 1, 1)
        before, state = _before(outer_sum(k * until, v), whole, state)
        read = (q @ before).mul_(since)
        del before
        if both:
            after = _before(outer_sum(k * since, v).flip(2), whole)[0].flip(2)
            read.add_((q @ after).mul_(until))
            del after
    inside = (q @ k.transpose(-1, -2)).mul_(_inside(rate, chunk, both, q))
    del q, k
    out = inside @ v
    return (out if read is None else out.add_(read)).flatten(2, 3)[:, :, :n], state


def fading_linear_flops(n: int, dim: int, size: int, chunk: int, both: bool = False) -> float:
    """Count what `fading_linear` executes for one head: two products inside a chunk, two with each state."""
    chunk = min(chunk, n)
    chunks = -(-n // chunk)
    states = 0 if chunks == 1 else 2 if both else 1
    return 2.0 * chunks * (chunk * chunk * (dim + size) + states * 2 * chunk * dim * size)


def powers(rate: Tensor, steps: Tensor, like: Tensor) -> Tensor:
    """Return exp(-rate steps) in the type of `like`: (heads, steps, 1), or (batch, heads, steps, 1)."""
    rate = rate.unsqueeze(-1)
    return (-rate * (steps.unsqueeze(-2) if steps.dim() > 1 else steps)).exp().to(like.dtype).unsqueeze(-1)


def _inside(rate: Tensor, chunk: int, both: bool, like: Tensor) -> Tensor:
    place = torch.arange(chunk, device=like.device)
    ahead = place.unsqueeze(1) - place
    weights = (-rate.view(-1, 1, 1, 1) * ahead.abs()).exp()
    return (weights if both else weights.tril()).to(like.dtype)


def _before(gained: Tensor, kept: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum what each chunk gained (batch, heads, chunks, dim, size) over the chunks before, fading; and over all."""
    sums = [torch.zeros_like(gained[:, :, 0], dtype=kept.dtype) if state is None else state]
    for new in gained.unbind(2):  # indexed one by one, their backward would be quadratic
        sums.append(new + kept * sums[-1])
    dtype = gained.dtype
    del gained, new
    return torch.stack(sums[:-1], 2).to(dtype), sums[-1]
