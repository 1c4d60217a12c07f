"""Softmax over what came before, read through a fixed set of rows: a running softmax, in chunks, safe at any scale.

Each of a few rows (agents, slots) weighs the tokens up to i by a softmax over time; token i then reads the rows. A
weight exp(score_j - logsum_i) is a product, exp(score_j - largest) exp(largest - logsum_i), with the largest score up
to the end of the chunk: so all weights inside a chunk are one product of matrices. That is exact as long as the log-sum
rises by fewer than some 40 inside a chunk (16- and 32-bit; 300 in float64). Where it rises by more, and in compiled
code, which cannot choose by values, the chunk is split in halves again and again, each exponent then at most zero.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.prefix import chunked, outer

FLOOR = -1e30  # the score of what is masked: finite, since the difference of two infinities is not a number
State = tuple[Tensor, Tensor]  # per row: log-sum of the scores (batch, heads, rows), mean of the values (·, size)


def empty(rows: int, v: Tensor) -> State:
    """Return the state before the first token of v (batch, heads, n, size)."""
    batch, heads, _, size = v.shape
    total = torch.full((batch, heads, rows), FLOOR, dtype=_sum_type(v), device=v.device)
    return total, torch.zeros(batch, heads, rows, size, dtype=_sum_type(v), device=v.device)


def running_softmax(
    scores: Tensor, read: Tensor, v: Tensor, state: State, chunk: int, mask: Tensor | None = None
) -> tuple[Tensor, State]:
    """Return sum over rows a of read_ia (sum over j <= i of softmax_j(scores_ja) v_j), and the state after the last.

    scores and read are (batch, heads, n, rows), v is (batch, heads, n, size), mask is (batch, n). `chunk` is a power
    of two. O(n (rows + chunk) size) time, memory linear in n: one state a chunk. 16-bit tensors are summed in float32:
    their log-sums would be too coarse for exponents.
    """
    dtype, n = v.dtype, scores.shape[2]
    chunk = _fitted(chunk, n)
    scores, read, v = (t.to(_sum_type(t)) for t in (scores, read, v))
    if mask is not None:
        masked = ~mask[:, None, :, None]
        scores, v = scores.masked_fill(masked, FLOOR), v.masked_fill(masked, 0.0)
    scores, read, v = chunked(scores, chunk, FLOOR), chunked(read, chunk), chunked(v, chunk)
    weights = Weights.of(scores, state[0])
    if weights:
        before, mean = weights.sums(v, state[1])
        out, state = weights.read(read, v, before), (weights.end, mean)
    else:
        out, state = _by_halves(scores, read, v, state)
    return out.flatten(2, 3)[:, :, :n].to(dtype), state


def running_softmax_flops(n: int, rows: int, size: int, chunk: int) -> float:
    """Count what `running_softmax` executes for one head: two products with the state, and two inside a chunk."""
    chunk = _fitted(chunk, n)
    return 2.0 * -(-n // chunk) * chunk * (2 * rows * size + chunk * (rows + size))


@dataclass(frozen=True)
class Weights:
    """What the tokens of each chunk weigh: tensors (batch, heads, chunks, ...)."""

    inside: Tensor  # exp(score - the largest up to the chunk's end), (·, chunk, rows)
    upto: Tensor  # the sum of all weights up to each token, in the same units, (·, chunk, rows)
    fall: Tensor  # of what came before a chunk, from its own unit to the chunk's, (·, rows)
    end: Tensor  # the log-sum after the last token, (batch, heads, rows)
    count: Tensor  # the same as a sum, in the unit of the last chunk

    @classmethod
    def of(cls, scores: Tensor, total: Tensor) -> "Weights | None":
        """Weigh scores (batch, heads, chunks, chunk, rows) after a log-sum; None where one rises by too much.

        In compiled code None as well: it cannot choose by values.
        """
        if torch.compiler.is_compiling():
            return None
        with torch.no_grad():
            largest = torch.cat([total.unsqueeze(2), scores.amax(3)], 2).cummax(2).values
            fall = (largest[:, :, :-1] - largest[:, :, 1:]).exp()
        inside = (scores - largest[:, :, 1:].unsqueeze(3)).exp()
        upto = inside.cumsum(3)
        counts = [torch.ones_like(total)]
        for new, share in zip(upto[:, :, :, -1].unbind(2), fall.unbind(2), strict=True):
            counts.append(torch.addcmul(new, share, counts[-1]))
        upto = upto + (torch.stack(counts[:-1], 2) * fall).unsqueeze(3)
        if not upto.is_meta and upto.detach().amin() < torch.finfo(upto.dtype).tiny ** 0.45:
            return None
        return cls(inside, upto, fall, largest[:, :, -1] + counts[-1].log(), counts[-1])

    def sums(self, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of x (batch, heads, chunks, chunk, size) before each chunk, and the mean at the end.

        `mean` is what the tokens before the first chunk had.
        """
        gained, sums = outer(self.inside, x), [mean]
        for new, share in zip(gained.unbind(2), self.fall.unbind(2), strict=True):  # indexed, backward is quadratic
            sums.append(torch.addcmul(new, share.unsqueeze(-1), sums[-1]))
        return torch.stack(sums[:-1], 2) * self.fall.unsqueeze(-1), sums[-1] / self.count.unsqueeze(-1)

    def read(self, read: Tensor, v: Tensor, before: Tensor) -> Tensor:
        """Return the sum over rows of read (·, chunk, rows) times the mean of v up to each token."""
        read = read / self.upto
        return (read @ self.inside.transpose(-1, -2)).tril() @ v + read @ before


def _by_halves(scores: Tensor, read: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
    """Compute with exponents that are a score minus a log-sum which already contains it."""
    total, mean = state
    sums = torch.cat([total.unsqueeze(2), scores.flatten(2, 3)], 2).logcumsumexp(2)[:, :, 1:]
    sums = torch.unflatten(sums, 2, (-1, scores.shape[3]))
    end = sums[:, :, :, -1]
    start = torch.cat([total.unsqueeze(2), end[:, :, :-1]], 2)
    gained = outer((scores - end.unsqueeze(3)).exp(), v)
    kept = (start - end).exp().unsqueeze(-1)
    means = [mean]
    for new, share in zip(gained.unbind(2), kept.unbind(2), strict=True):  # indexed, backward would be quadratic
        means.append(torch.addcmul(new, share, means[-1]))
    before = (read * (start.unsqueeze(3) - sums).exp()) @ torch.stack(means[:-1], 2)
    return before + _inside(scores, sums, read, v), (end[:, :, -1], means[-1])


def _inside(scores: Tensor, sums: Tensor, read: Tensor, v: Tensor) -> Tensor:
    """Sum over the tokens of the same chunk: its own, then from half a block to the other half, twice as wide each."""
    out = (read * (scores - sums).exp()).sum(-1, keepdim=True) * v
    half = 1
    while half < scores.shape[3]:

        def halves(t: Tensor, half: int = half) -> tuple[Tensor, ...]:
            return torch.unflatten(t, 3, (-1, 2, half)).unbind(4)

        (of_first, _), (first_sums, second_sums) = halves(scores), halves(sums)
        middle = first_sums[..., -1:, :]  # the log-sum where the first half ends lies between the two
        weights = (halves(read)[1] * (middle - second_sums).exp()) @ (of_first - middle).exp().transpose(-1, -2)
        out = out + F.pad(weights @ halves(v)[0], (0, 0, half, 0)).flatten(3, 4)
        half *= 2
    return out


def _fitted(chunk: int, n: int) -> int:
    """Halve a chunk as long as it would be half empty."""
    while chunk >= 2 * n > 1:
        chunk //= 2
    return chunk


def _sum_type(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)
