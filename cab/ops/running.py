"""Softmax over what came before, read through a fixed set of rows: a running softmax, in chunks, safe at any scale.

Each of a few rows (agents, slots) weighs the tokens up to i by a softmax over time; token i then reads the rows. Every
exponent below is a score minus a log-sum that already contains it, so it is at most zero whatever the scores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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
    of two. O(n (rows + chunk) size) time, memory linear in n: one state a chunk, and inside a chunk binary splitting,
    in which a block reads the block before it. 16-bit tensors are summed in float32: their log-sums would be too
    coarse for exponents.
    """
    dtype, n = v.dtype, scores.shape[2]
    chunk = _fitted(chunk, n)
    tail = -n % chunk
    total, mean = state
    scores, read, v = (t.to(_sum_type(t)) for t in (scores, read, v))
    if mask is not None:
        masked = ~mask[:, None, :, None]
        scores, v = scores.masked_fill(masked, FLOOR), v.masked_fill(masked, 0.0)
    scores = F.pad(scores, (0, 0, 0, tail), value=FLOOR)
    sums = torch.cat([total.unsqueeze(2), scores], 2).logcumsumexp(2)[:, :, 1:]
    # (batch, heads, chunks, chunk, ·)
    scores, sums = torch.unflatten(scores, 2, (-1, chunk)), torch.unflatten(sums, 2, (-1, chunk))
    read, v = (torch.unflatten(F.pad(t, (0, 0, 0, tail)), 2, (-1, chunk)) for t in (read, v))
    end = sums[:, :, :, -1]
    start = torch.cat([total.unsqueeze(2), end[:, :, :-1]], 2)
    gained = (scores - end.unsqueeze(3)).exp().transpose(-1, -2) @ v
    kept = (start - end).exp().unsqueeze(-1)
    means = [mean]
    for new, share in zip(gained.unbind(2), kept.unbind(2), strict=True):  # indexed, backward would be quadratic
        means.append(torch.addcmul(new, share, means[-1]))
    before = (read * (start.unsqueeze(3) - sums).exp()) @ torch.stack(means[:-1], 2)
    out = before + _inside(scores, sums, read, v)
    return out.flatten(2, 3)[:, :, :n].to(dtype), (end[:, :, -1], means[-1])


def running_softmax_flops(n: int, rows: int, size: int, chunk: int) -> float:
    """Count what `running_softmax` executes for one head: two products with the state, and those inside a chunk."""
    chunk = _fitted(chunk, n)
    chunks = -(-n // chunk)
    return chunks * (4.0 * chunk * rows * size + chunk * (chunk - 1) * (rows + size))


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
