"""Softmax over what came before, read through a fixed set of rows: a running softmax, in chunks, safe at any scale.

Each of a few rows (agents, slots) weighs the tokens up to i by a softmax over time; token i then reads the rows. A
weight exp(score_j - logsum_i) is a product, exp(score_j - largest) exp(largest - logsum_i), with the largest score of
all: so the whole is linear attention. That is exact as long as the log-sum rises by fewer than some 40 from the first
token to the last (16- and 32-bit; 300 in float64). Where it rises by more, and in compiled code, which cannot choose by
values, each chunk is split in halves again and again, each exponent then at most zero.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cab.ops.autograd import fresh_view
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import (
    causal_linear_flops,
    causal_linear_from,
    chunked,
    fit_chunk,
    outer_sum,
    prefix_sums,
    suffix_sums,
)

FLOOR = -1e30  # the score of what is masked: finite, since the difference of two infinities is not a number
State = tuple[Tensor, Tensor]  # per row: log-sum of the scores (batch, heads, rows), mean of the values (·, size)


def empty(rows: int, v: Tensor) -> State:
    """Return the state before the first token of v (batch, heads, n, size)."""
    batch, heads, _, size = v.shape
    total = torch.full((batch, heads, rows), FLOOR, dtype=at_least_float32(v), device=v.device)
    return total, torch.zeros(batch, heads, rows, size, dtype=at_least_float32(v), device=v.device)


def running_softmax(
    scores: Tensor, read: Tensor, v: Tensor, state: State, chunk: int, mask: Tensor | None = None
) -> tuple[Tensor, State]:
    """Return sum over rows a of read_ia (sum over j <= i of softmax_j(scores_ja) v_j), and the state after the last.

    scores and read are (batch, heads, n, rows), v is (batch, heads, n, size), mask is (batch, n). `chunk` is a power
    of two. O(n (rows + chunk) size) time, memory linear in n: one state a chunk. 16-bit tensors are summed in float32:
    their log-sums would be too coarse for exponents.
    """
    dtype, n = v.dtype, scores.shape[2]
    chunk = fit_chunk(chunk, n)
    scores, read, v = (t.to(at_least_float32(t)) for t in (scores, read, v))
    if mask is not None:
        masked = ~mask[:, None, :, None]
        scores, v = scores.masked_fill(masked, FLOOR), v.masked_fill(masked, 0.0)
    with full_precision(v.device.type):  # a share may be as large as the log-sum rises: autocast's float16 overflows
        weights = Weights.of(scores, state[0])
        if weights:
            start, count = state[1] * weights.start.unsqueeze(-1), weights.count.unsqueeze(-1)
            out, sums = causal_linear_from(weights.share(read), weights.inside, v, start, chunk)
            return out.to(dtype), (weights.end, sums / count)
        out, state = _by_halves(chunked(scores, chunk, FLOOR), chunked(read, chunk), chunked(v, chunk), state)
        return out.flatten(2, 3)[:, :, :n].to(dtype), state


def running_softmax_flops(n: int, rows: int, size: int, chunk: int) -> float:
    """Count what `running_softmax` executes for one head: two products with the state, and two inside a chunk."""
    return causal_linear_flops(n, rows, size, fit_chunk(chunk, n))


@dataclass(frozen=True)
class Weights:
    """What tokens weigh in each row, and what they do together, all in units of the largest weight."""

    inside: Tensor  # of each token, (batch, heads, n, rows)
    upto: Tensor  # of all tokens up to each one, with those before the first, (batch, heads, n, rows)
    start: Tensor  # of those before the first, (batch, heads, rows)
    unit: Tensor  # its logarithm, (batch, heads, rows)

    @classmethod
    def of(cls, scores: Tensor, total: Tensor) -> "Weights | None":
        """Weigh scores (batch, heads, n, rows) after a log-sum; None where that rises by too much.

        In compiled code None as well: it cannot choose by values.
        """
        if torch.compiler.is_compiling():
            return None
        unit = torch.maximum(total.detach(), scores.detach().amax(2))
        start = (total - unit).exp()
        if torch.is_grad_enabled():
            inside, upto = _Sums.apply(scores, start, unit)  # type: ignore[no-untyped-call]
        else:
            inside, upto = _summed(scores, start, unit)
        if not upto.is_meta and upto[:, :, 0].detach().amin() < torch.finfo(upto.dtype).tiny ** 0.45:
            return None
        return cls(inside, upto, start, unit)

    @property
    def count(self) -> Tensor:
        """What all weigh after the last token, (batch, heads, rows)."""
        return self.upto[:, :, -1]

    @property
    def end(self) -> Tensor:
        """The log-sum after the last token, (batch, heads, rows)."""
        return self.unit + self.count.log()

    def share(self, t: Tensor) -> Tensor:
        """Divide t (batch, heads, n, rows) by what all tokens up to each one weigh."""
        if not torch.is_grad_enabled():
            return t / self.upto
        out: Tensor = _Quotient.apply(t, self.upto)  # type: ignore[no-untyped-call]
        return out


def _summed(scores: Tensor, start: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    inside = (scores.contiguous() - unit.unsqueeze(2)).exp_()  # the layout of all that follows
    return inside, prefix_sums(inside, start)


class _Sums(torch.autograd.Function):
    """Weights and their prefix sums; `unit` is a constant that cancels."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, start: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        inside, upto = _summed(scores, start, unit)
        ctx.save_for_backward(inside)
        return fresh_view(inside), fresh_view(upto)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_inside: Tensor, of_upto: Tensor) -> tuple[Tensor, Tensor, None]:
        (inside,) = ctx.saved_tensors
        of_sums = suffix_sums(of_upto)
        of_start = of_sums[:, :, 0].clone()
        return of_sums.add_(of_inside).mul_(inside), of_start, None


class _Quotient(torch.autograd.Function):
    """A division that keeps its result for backward, not its numerator."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        out = a / b
        ctx.save_for_backward(out, b)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor]:
        out, b = ctx.saved_tensors
        of_a = of_out / b
        return of_a, torch.addcmul(of_a.new_zeros(()), of_a, out, value=-1)


def _by_halves(scores: Tensor, read: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
    """Compute with exponents that are a score minus a log-sum which already contains it."""
    total, mean = state
    sums = torch.cat([total.unsqueeze(2), scores.flatten(2, 3)], 2).logcumsumexp(2)[:, :, 1:]
    sums = torch.unflatten(sums, 2, (-1, scores.shape[3]))
    end = sums[:, :, :, -1]
    start = torch.cat([total.unsqueeze(2), end[:, :, :-1]], 2)
    gained = outer_sum((scores - end.unsqueeze(3)).exp(), v)
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
