"""Positive random features (Performer, arXiv 2009.14794): exp(q.k) as an expectation of products of exponentials.

A feature f of a token is exp(of a score s_f). Sums of products exp(a_if + b_jf) over keys j are computed here from the
scores, each with the largest that it meets taken out, which cancels in the normalised result.
"""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from cab.ops.prefix import chunked, outer_sum
from cab.ops.running import running_softmax

FLOOR = -1e30  # the score of what is masked: finite, since the difference of two infinities is not a number


class Sums(NamedTuple):
    """What was summed: per feature the largest score yet, and the values (with a column of ones) times exp(score)."""

    largest: Tensor  # (batch, heads, features)
    total: Tensor  # (batch, heads, features, size + 1), times exp(-largest)


def orthogonal(count: int, dim: int) -> Tensor:
    """Draw `count` Gaussian directions (count, dim), orthogonal in blocks of dim; lengths as of independent ones."""
    blocks = []
    for _ in range(-(-count // dim)):
        rotation, triangle = torch.linalg.qr(torch.randn(dim, dim))
        # LAPACK chooses signs, which turns the directions to one side: without them the estimate is biased
        blocks.append((rotation * triangle.diagonal().sign()).T)
    lengths: Tensor = torch.linalg.vector_norm(torch.randn(count, dim), dim=1, keepdim=True)
    return torch.cat(blocks)[:count] * lengths


def summed(scores: Tensor, v: Tensor) -> Sums:
    """Sum over all keys: scores (batch, heads, m, features), overwritten, and v (batch, heads, m, size + 1)."""
    largest = scores.detach().amax(2)
    return Sums(largest, outer_sum(scores.sub_(largest.unsqueeze(2)).exp_(), v))


def nothing(features: int, v: Tensor) -> Sums:
    """Return the sums before the first key."""
    shape = (*v.shape[:2], features)
    return Sums(torch.full(shape, FLOOR, dtype=v.dtype, device=v.device), v.new_zeros(*shape, v.shape[3]))


def read(scores: Tensor, sums: Sums) -> Tensor:
    """Read the sums with each query's features, overwritten; every row times a constant of its own."""
    return _safe_exp(scores.add_(sums.largest.unsqueeze(2))) @ sums.total


def running(a: Tensor, b: Tensor, v: Tensor, chunk: int, sums: Sums | None = None) -> tuple[Tensor, Sums]:
    """Return sum over j <= i and features f of exp(a_if + b_jf) v_j, each row times a constant, and the sums after.

    a and b are (batch, heads, n, features); v ends with a column of ones, zero where masked. What is taken out of a
    key's scores is the largest of its chunk and all chunks before, as in an online softmax, and it is put back on the
    queries. It cancels, so that later keys of the chunk change rounding alone, as long as they exceed what came before
    by less than the exponents of the type. A chunk where they do not is summed with a scale of each token's own; and so
    is all in compiled code, which cannot choose by values.
    """
    n = b.shape[2]
    chunk = min(chunk, n)
    sums = nothing(b.shape[3], v) if sums is None else sums
    if torch.compiler.is_compiling():
        return _token_by_token(a, b, v, sums, chunk)
    a, b, v = chunked(a, chunk), chunked(b, chunk, FLOOR), chunked(v, chunk)
    here = torch.cat([sums.largest.unsqueeze(2), b.detach().amax(3)], 2).cummax(2).values
    scores = {c: (a[:, :, c].clone(), b[:, :, c].clone()) for c in _far(here, b)}
    largest = here[:, :, 1:].unsqueeze(3)
    a = _safe_exp(a + largest)
    b = (b - largest).exp_()
    gained, kept = outer_sum(b, v), (here[:, :, :-1] - here[:, :, 1:]).exp().unsqueeze(-1)
    before: dict[int, Sums] = {}
    faded, total = [], sums.total
    # indexed, backward would be quadratic
    for c, (new, share) in enumerate(zip(gained.unbind(2), kept.unbind(2), strict=True)):
        if c in scores:
            before[c] = Sums(here[:, :, c], total)
        faded.append(share * total)  # the sums before the chunk, at its scale
        total = new + faded[-1]
    del gained, new
    out = ((a @ b.transpose(-1, -2)).tril_() @ v).add_(a @ torch.stack(faded, 2))
    if scores:
        rows = [_token_by_token(*scores[c], v[:, :, c], before[c], chunk)[0].to(out.dtype) for c in scores]
        out = out.index_copy(2, torch.tensor(list(scores), device=out.device), torch.stack(rows, 2))
    return out.flatten(2, 3)[:, :, :n], Sums(here[:, :, -1], total)


def _far(here: Tensor, b: Tensor) -> list[int]:
    """Return the chunks where some row has seen too little of what is taken out; `here` is what is, and was before.

    A row has seen what came before its chunk, and the chunk's first key. What is taken out exceeds that by the rise at
    most, in the feature that weighs most.
    """
    if b.is_meta:
        return []
    b, before = b.detach(), here[:, :, :-1]
    first = (b[..., :1] > FLOOR / 2).byte().argmax(3, keepdim=True)  # real; rows that come earlier see nothing
    first = b.gather(3, first.expand(-1, -1, -1, -1, b.shape[4])).squeeze(3)
    least = torch.where(before > FLOOR / 2, torch.maximum(before, b[:, :, :, 0]), first)
    rise = (here[:, :, 1:] - least).amax((0, 1, 3))
    far: list[int] = (rise > -0.6 * log(torch.finfo(b.dtype).tiny)).nonzero()[:, 0].tolist()
    return far


def _token_by_token(a: Tensor, b: Tensor, v: Tensor, sums: Sums, chunk: int) -> tuple[Tensor, Sums]:
    """Return the same with exponents that are at most zero: a softmax over the keys, and one over what they sum to."""
    count = sums.total[..., -1:]
    count = count.where(count > 0, 1.0)
    start = sums.largest + count.squeeze(-1).log()
    whole = 1 << (chunk.bit_length() - 1)  # its chunks are split in halves
    read = (a + torch.cat([start.unsqueeze(2), b], 2).logcumsumexp(2)[:, :, 1:]).softmax(-1)
    out, end = running_softmax(b, read, v, (start, sums.total / count), whole)
    return out, Sums(*end)


def _safe_exp(scores: Tensor) -> Tensor:
    """Write the exponentials in the scores' place, each row times a constant that makes its largest 1."""
    return scores.sub_(scores.detach().amax(-1, keepdim=True)).exp_()
