"""Positive random features (Performer, arXiv 2009.14794): exp(q.k) as an expectation of products of exponentials.

A feature f of a token is exp(of a score s_f). Sums of products exp(a_if + b_jf) over keys j are computed here from the
scores, each with the largest that it meets taken out, which cancels in the normalised result.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cab.ops.prefix import chunked, outer

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
    return Sums(largest, outer(scores.sub_(largest.unsqueeze(2)).exp_(), v))


def nothing(features: int, v: Tensor) -> Sums:
    """Return the sums before the first key."""
    shape = (*v.shape[:2], features)
    return Sums(torch.full(shape, FLOOR, dtype=v.dtype, device=v.device), v.new_zeros(*shape, v.shape[3]))


def read(scores: Tensor, sums: Sums) -> Tensor:
    """Read the sums with each query's features, overwritten; every row times a constant of its own."""
    return _safe_exp(scores.add_(sums.largest.unsqueeze(2))) @ sums.total


def running(a: Tensor, b: Tensor, v: Tensor, chunk: int, sums: Sums | None = None) -> tuple[Tensor, Sums]:
    """Return sum over j <= i and features f of exp(a_if + b_jf) v_j, each row times a constant, and the sums after.

    a and b are (batch, heads, n, features). What is taken out of a key's scores is the largest of its chunk and all
    chunks before, as in an online softmax, and it is put back on the queries. It cancels, so that later keys of the
    chunk change rounding alone, as long as the scores of a chunk differ by less than the exponents of the type.
    """
    n = b.shape[2]
    chunk = min(chunk, n)
    sums = nothing(b.shape[3], v) if sums is None else sums
    a, b, v = chunked(a, chunk), chunked(b, chunk, FLOOR), chunked(v, chunk)
    here = torch.cat([sums.largest.unsqueeze(2), b.detach().amax(3)], 2).cummax(2).values
    largest = here[:, :, 1:].unsqueeze(3)
    a = _safe_exp(a + largest)
    b = (b - largest).exp_()
    gained, kept = outer(b, v), (here[:, :, :-1] - here[:, :, 1:]).exp().unsqueeze(-1)
    faded, total = [], sums.total
    for new, share in zip(gained.unbind(2), kept.unbind(2), strict=True):  # indexed, backward would be quadratic
        faded.append(share * total)  # the sums before the chunk, at its scale
        total = new + faded[-1]
    del gained, new
    out = ((a @ b.transpose(-1, -2)).tril_() @ v).add_(a @ torch.stack(faded, 2))
    return out.flatten(2, 3)[:, :, :n], Sums(here[:, :, -1], total)


def _safe_exp(scores: Tensor) -> Tensor:
    """Write the exponentials in the scores' place, each row times a constant that makes its largest 1."""
    return scores.sub_(scores.detach().amax(-1, keepdim=True)).exp_()
