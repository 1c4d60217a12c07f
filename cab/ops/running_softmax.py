"""Running softmax: each of a few rows (agents, slots, channels) weighs the tokens up to i by a softmax over time.

With the scores s_(j, r) of token j in row r and the weights q_(i, r) by which token i reads the rows,

    out_i = sum over r of q_(i, r) sum over j <= i of exp(s_(j, r) - L_(i, r)) v_j,

where L_(i, r) is the running log-sum, log of the sum over j <= i of exp(s_(j, r)). There are two ways to compute it:

- `RunningWeights`: exp(s_j - L_i) = exp(s_j - m) exp(m - L_i), with m the largest score of all. That is linear
  attention, and exact while m exceeds the log-sum after the first token by less than about 40 (300 in float64).
- `_by_halves`: each chunk is split in halves again and again, so that every exponent is at most zero. It is exact at
  any scale. It is used where the scores rise by more, and in compiled code, which cannot choose by values.
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

FLOOR = -1e30  # the score of a masked token: finite, since the difference of two infinities is not a number
State = tuple[Tensor, Tensor]  # per row: log-sum of the scores (batch, heads, rows), mean of the values (·, rows, size)


def empty_state(rows: int, v: Tensor) -> State:
    """Return the state before the first token of v (batch, heads, n, size)."""
    batch, heads, _, size = v.shape
    log_sum = torch.full((batch, heads, rows), FLOOR, dtype=at_least_float32(v), device=v.device)
    return log_sum, torch.zeros(batch, heads, rows, size, dtype=at_least_float32(v), device=v.device)


def running_softmax(
    scores: Tensor, read: Tensor, v: Tensor, state: State, chunk: int, mask: Tensor | None = None
) -> tuple[Tensor, State]:
    """Return out of the module's docstring, (batch, heads, n, size), and the state after the last token.

    scores (s) and read (q) are (batch, heads, n, rows), v is (batch, heads, n, size), mask is (batch, n). `chunk` is a
    power of two. O(n (rows + chunk) size) time, and memory linear in n: one state per chunk. 16-bit tensors are summed
    in float32, since 16-bit log-sums are too coarse for exponents.
    """
    dtype, n = v.dtype, scores.shape[2]
    chunk = fit_chunk(chunk, n)
    scores, read, v = (t.to(at_least_float32(t)) for t in (scores, read, v))
    if mask is not None:
        masked = ~mask[:, None, :, None]
        scores, v = scores.masked_fill(masked, FLOOR), v.masked_fill(masked, 0.0)
    with full_precision(v.device.type):  # exp(m - L_i) is large where the scores rise: float16 of autocast overflows
        log_sum, mean = state
        weights = RunningWeights.of(scores, log_sum)
        if weights:
            initial, total = mean * weights.initial.unsqueeze(-1), weights.total.unsqueeze(-1)
            out, sums = causal_linear_from(weights.normalise(read), weights.token, v, initial, chunk)
            return out.to(dtype), (weights.final_log_sum, sums / total)
        out, state = _by_halves(chunked(scores, chunk, FLOOR), chunked(read, chunk), chunked(v, chunk), state)
        return out.flatten(2, 3)[:, :, :n].to(dtype), state


def running_softmax_flops(n: int, rows: int, size: int, chunk: int) -> float:
    """Count the FLOPs of `running_softmax` for one head: two products with the state, and two inside each chunk."""
    return causal_linear_flops(n, rows, size, fit_chunk(chunk, n))


@dataclass(frozen=True)
class RunningWeights:
    """The weights of tokens in each row, divided by exp(log_unit), which is about the largest of them."""

    token: Tensor  # exp(s_j - log_unit) of each token, (batch, heads, n, rows)
    prefix: Tensor  # their prefix sums, which begin with `initial`, (batch, heads, n, rows)
    initial: Tensor  # of all tokens before the first, (batch, heads, rows)
    log_unit: Tensor  # (batch, heads, rows)

    @classmethod
    def of(cls, scores: Tensor, log_sum: Tensor) -> "RunningWeights | None":
        """Compute them for scores (batch, heads, n, rows) that follow on a log-sum (batch, heads, rows).

        Return None where the first prefix sum is so small that dividing by it is not exact. Return None in compiled
        code, which cannot choose by values.
        """
        if torch.compiler.is_compiling():
            return None
        log_unit = torch.maximum(log_sum.detach(), scores.detach().amax(2))
        initial = (log_sum - log_unit).exp()
        if torch.is_grad_enabled():
            token, prefix = _TokenWeights.apply(scores, initial, log_unit)  # type: ignore[no-untyped-call]
        else:
            token, prefix = _token_weights(scores, initial, log_unit)
        if not prefix.is_meta and prefix[:, :, 0].detach().amin() < torch.finfo(prefix.dtype).tiny ** 0.45:
            return None
        return cls(token, prefix, initial, log_unit)

    @property
    def total(self) -> Tensor:
        """The sum of the weights after the last token, (batch, heads, rows)."""
        return self.prefix[:, :, -1]

    @property
    def final_log_sum(self) -> Tensor:
        """The log-sum of the scores after the last token, (batch, heads, rows)."""
        return self.log_unit + self.total.log()

    def normalise(self, t: Tensor) -> Tensor:
        """Divide t (batch, heads, n, rows) by the sum of the weights up to each token."""
        if not torch.is_grad_enabled():
            return t / self.prefix
        out: Tensor = _Quotient.apply(t, self.prefix)  # type: ignore[no-untyped-call]
        return out


def _token_weights(scores: Tensor, initial: Tensor, log_unit: Tensor) -> tuple[Tensor, Tensor]:
    token = (scores.contiguous() - log_unit.unsqueeze(2)).exp_()  # all later tensors get this layout
    return token, prefix_sums(token, initial)


class _TokenWeights(torch.autograd.Function):
    """The weights of tokens and their prefix sums. `log_unit` takes no gradient: it cancels."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, initial: Tensor, log_unit: Tensor) -> tuple[Tensor, Tensor]:
        token, prefix = _token_weights(scores, initial, log_unit)
        ctx.save_for_backward(token)
        return fresh_view(token), fresh_view(prefix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor, grad_prefix: Tensor) -> tuple[Tensor, Tensor, None]:
        (token,) = ctx.saved_tensors
        grad_from_prefix = suffix_sums(grad_prefix)
        grad_initial = grad_from_prefix[:, :, 0].clone()
        return grad_from_prefix.add_(grad_token).mul_(token), grad_initial, None


class _Quotient(torch.autograd.Function):
    """A division that saves its result for backward, not its numerator."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        out = a / b
        ctx.save_for_backward(out, b)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor]:
        out, b = ctx.saved_tensors
        grad_a = grad_out / b
        return grad_a, torch.addcmul(grad_a.new_zeros(()), grad_a, out, value=-1)


def _by_halves(scores: Tensor, read: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
    """Compute chunks (batch, heads, chunks, chunk, ·) with exponents s_j - L_i, which are at most zero for j <= i."""
    log_sum, mean = state
    log_sums = torch.cat([log_sum.unsqueeze(2), scores.flatten(2, 3)], 2).logcumsumexp(2)[:, :, 1:]
    log_sums = torch.unflatten(log_sums, 2, (-1, scores.shape[3]))
    end = log_sums[:, :, :, -1]  # of each chunk, (batch, heads, chunks, rows)
    start = torch.cat([log_sum.unsqueeze(2), end[:, :, :-1]], 2)
    updates = outer_sum((scores - end.unsqueeze(3)).exp(), v)
    decay = (start - end).exp().unsqueeze(-1)
    means = [mean]
    # not indexed: the backward of indexing is quadratic in the number of chunks
    for update, chunk_decay in zip(updates.unbind(2), decay.unbind(2), strict=True):
        means.append(torch.addcmul(update, chunk_decay, means[-1]))
    inter_chunk = (read * (start.unsqueeze(3) - log_sums).exp()) @ torch.stack(means[:-1], 2)
    return inter_chunk + _intra_chunk(scores, log_sums, read, v), (end[:, :, -1], means[-1])


def _intra_chunk(scores: Tensor, log_sums: Tensor, read: Tensor, v: Tensor) -> Tensor:
    """Sum over the tokens of the same chunk.

    First each token reads itself. Then, in blocks of 2, 4, 8, ... tokens, the second half reads the first half. The
    log-sum L where the first half ends lies between the two, so that exp(s_j - L) exp(L - L_i) has exponents of at
    most zero.
    """
    out = (read * (scores - log_sums).exp()).sum(-1, keepdim=True) * v
    half = 1
    while half < scores.shape[3]:

        def halves(t: Tensor, half: int = half) -> tuple[Tensor, ...]:
            return torch.unflatten(t, 3, (-1, 2, half)).unbind(4)

        (first_scores, _), (first_sums, second_sums) = halves(scores), halves(log_sums)
        middle = first_sums[..., -1:, :]
        weights = (halves(read)[1] * (middle - second_sums).exp()) @ (first_scores - middle).exp().transpose(-1, -2)
        out = out + F.pad(weights @ halves(v)[0], (0, 0, half, 0)).flatten(3, 4)
        half *= 2
    return out
