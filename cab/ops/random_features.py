"""Positive random features (Performer, arXiv 2009.14794, lemma 1): exp(q . k) as the mean of products of exponentials.

Feature f of a query is exp(a_if) and of a key exp(b_jf), where a and b are the logarithms of the features, and the
weight of key j for query i is w_ij = sum over f of exp(a_if + b_jf). The sums of w_ij v_j are computed from the
logarithms, from which a maximum is subtracted, as in an online softmax, so that no exponential overflows. The values
carry a column of ones, whose sum is the normaliser, so that whatever scales a whole row cancels.
"""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from cab.ops.prefix import chunked, outer_sum
from cab.ops.running_softmax import running_softmax

FLOOR = -1e30  # the logarithm of a masked feature: finite, since the difference of two infinities is not a number


class FeatureSums(NamedTuple):
    """The sum over keys of exp(b_jf) v_j in each feature f: exp(maximum_f) times scaled_f."""

    maximum: Tensor  # of b over the keys, (batch, heads, features)
    scaled: Tensor  # sum of exp(b_jf - maximum_f) v_j, (batch, heads, features, size + 1)


def orthogonal_directions(count: int, dim: int) -> Tensor:
    """Draw `count` Gaussian directions (count, dim), orthogonal in blocks of dim.

    Their lengths are those of independent Gaussian vectors (section 2.4 of the paper).
    """
    blocks = []
    for _ in range(-(-count // dim)):
        rotation, triangle = torch.linalg.qr(torch.randn(dim, dim))
        # LAPACK's choice of signs favours one side: unless it is undone, the estimate is biased
        blocks.append((rotation * triangle.diagonal().sign()).T)
    lengths: Tensor = torch.linalg.vector_norm(torch.randn(count, dim), dim=1, keepdim=True)
    return torch.cat(blocks)[:count] * lengths


def sum_keys(b: Tensor, v: Tensor) -> FeatureSums:
    """Sum over all keys: b is (batch, heads, m, features), v is (batch, heads, m, size + 1). Overwrites b."""
    maximum = b.detach().amax(2)
    return FeatureSums(maximum, outer_sum(b.sub_(maximum.unsqueeze(2)).exp_(), v))


def empty_sums(features: int, v: Tensor) -> FeatureSums:
    """Return the sums before the first key."""
    shape = (*v.shape[:2], features)
    return FeatureSums(torch.full(shape, FLOOR, dtype=v.dtype, device=v.device), v.new_zeros(*shape, v.shape[3]))


def read_sums(a: Tensor, sums: FeatureSums) -> Tensor:
    """Return sum over keys of w_ij v_j, (batch, heads, n, size + 1), each row times a constant of its own.

    a is (batch, heads, n, features), and is overwritten.
    """
    return _scaled_exp(a.add_(sums.maximum.unsqueeze(2))) @ sums.scaled


def causal_sums(
    a: Tensor, b: Tensor, v: Tensor, chunk: int, sums: FeatureSums | None = None
) -> tuple[Tensor, FeatureSums]:
    """Return sum over j <= i of w_ij v_j, each row times a constant of its own, and the sums after the last token.

    a and b are (batch, heads, n, features). v is (batch, heads, n, size + 1); it ends with a column of ones and is zero
    where masked. The result is (batch, heads, n, size + 1). `sums` are those before the first token.

    In each feature, the maximum of b over a chunk and all chunks before is subtracted from b and added to a. It
    cancels, so that later keys of the chunk change rounding alone, as long as they exceed what came before by less than
    the range of exponents of the dtype. A chunk in which they exceed it by more is computed with a maximum for each
    token instead. So are all chunks in compiled code, which cannot choose by values.
    """
    n = b.shape[2]
    chunk = min(chunk, n)
    sums = empty_sums(b.shape[3], v) if sums is None else sums
    if torch.compiler.is_compiling():
        return _causal_sums_by_token(a, b, v, sums, chunk)
    a, b, v = chunked(a, chunk), chunked(b, chunk, FLOOR), chunked(v, chunk)
    # (batch, heads, chunks + 1, features): before the first chunk, and up to the end of each
    maxima = torch.cat([sums.maximum.unsqueeze(2), b.detach().amax(3)], 2).cummax(2).values
    steep = {c: (a[:, :, c].clone(), b[:, :, c].clone()) for c in _steep_chunks(maxima, b)}
    offset = maxima[:, :, 1:].unsqueeze(3)
    a = _scaled_exp(a + offset)
    b = (b - offset).exp_()
    updates, decay = outer_sum(b, v), (maxima[:, :, :-1] - maxima[:, :, 1:]).exp().unsqueeze(-1)
    before_steep: dict[int, FeatureSums] = {}
    states, scaled = [], sums.scaled  # of the sums before each chunk, at its own scale
    # not indexed: the backward of indexing is quadratic in the number of chunks
    for c, (update, chunk_decay) in enumerate(zip(updates.unbind(2), decay.unbind(2), strict=True)):
        if c in steep:
            before_steep[c] = FeatureSums(maxima[:, :, c], scaled)
        states.append(chunk_decay * scaled)
        scaled = update + states[-1]
    del updates, update
    out = ((a @ b.transpose(-1, -2)).tril_() @ v).add_(a @ torch.stack(states, 2))
    if steep:
        rows = [_causal_sums_by_token(*steep[c], v[:, :, c], before_steep[c], chunk)[0].to(out.dtype) for c in steep]
        out = out.index_copy(2, torch.tensor(list(steep), device=out.device), torch.stack(rows, 2))
    return out.flatten(2, 3)[:, :, :n], FeatureSums(maxima[:, :, -1], scaled)


def _steep_chunks(maxima: Tensor, b: Tensor) -> list[int]:
    """Return the chunks whose maximum exceeds the maximum of the keys that some row sees by too much.

    maxima is (batch, heads, chunks + 1, features), b is (batch, heads, chunks, chunk, features). Every row sees the
    chunks before its own, and the first unmasked key of its own. So `rise` bounds the excess from above.
    """
    if b.is_meta:
        return []
    b, before = b.detach(), maxima[:, :, :-1]
    first = (b[..., :1] > FLOOR / 2).byte().argmax(3, keepdim=True)  # rows before the first unmasked key see nothing
    first = b.gather(3, first.expand(-1, -1, -1, -1, b.shape[4])).squeeze(3)
    least = torch.where(before > FLOOR / 2, torch.maximum(before, b[:, :, :, 0]), first)
    rise = (maxima[:, :, 1:] - least).amax((0, 1, 3))
    chunks: list[int] = (rise > -0.6 * log(torch.finfo(b.dtype).tiny)).nonzero()[:, 0].tolist()
    return chunks


def _causal_sums_by_token(a: Tensor, b: Tensor, v: Tensor, sums: FeatureSums, chunk: int) -> tuple[Tensor, FeatureSums]:
    """Compute `causal_sums` of tensors that are not in chunks, with exponents of at most zero.

    Each feature is a row of a running softmax over the keys. A query reads the rows by a softmax over the features, of
    a plus the log-sum of the row.
    """
    count = sums.scaled[..., -1:]  # the column of ones
    count = count.where(count > 0, 1.0)
    log_sum = sums.maximum + count.squeeze(-1).log()
    power_of_two = 1 << (chunk.bit_length() - 1)  # `running_softmax` splits its chunks in halves
    read = (a + torch.cat([log_sum.unsqueeze(2), b], 2).logcumsumexp(2)[:, :, 1:]).softmax(-1)
    out, state = running_softmax(b, read, v, (log_sum, sums.scaled / count), power_of_two)
    return out, FeatureSums(*state)


def _scaled_exp(logarithms: Tensor) -> Tensor:
    """Exponentiate in-place, each row times a constant that makes its largest entry 1."""
    return logarithms.sub_(logarithms.detach().amax(-1, keepdim=True)).exp_()
