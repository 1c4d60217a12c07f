"""Linear attention over what came before: prefix sums of outer products, in chunks, with no loop over tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def chunked(t: Tensor, chunk: int, value: float = 0.0) -> Tensor:
    """Cut (batch, heads, n, ·) into (batch, heads, chunks, chunk, ·); `value` fills up the last one."""
    tail = -t.shape[2] % chunk
    return torch.unflatten(F.pad(t, (0, 0, 0, tail), value=value) if tail else t, 2, (-1, chunk))


def outer(k: Tensor, v: Tensor) -> Tensor:
    """Return sum over tokens of k_j v_j^T, (..., features, size); in this order k's gradient has k's layout."""
    return (v.transpose(-1, -2) @ k).transpose(-1, -2)


def causal_linear(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> Tensor:
    """Return sum over j <= i of (q_i . k_j) v_j, without a normaliser.

    q and k are (batch, heads, n, features), v is (batch, heads, n, size). Inside a chunk the scores are written out;
    before it, one state (features, size) stands for everything: O(n (chunk + features) size) time, and memory
    linear in n (Katharopoulos et al., arXiv 2006.16236, equation 10, in the block form).
    """
    n = q.shape[2]
    chunk = min(chunk, n)
    q, k, v = chunked(q, chunk), chunked(k, chunk), chunked(v, chunk)
    read = q @ _before(outer(k, v))
    inside = (q @ k.transpose(-1, -2)).tril_()
    del q, k
    return (inside @ v).add_(read).flatten(2, 3)[:, :, :n]


def causal_average(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> Tensor:
    """Return `causal_linear` of v over that of ones: the mean of v over j <= i by weights q_i . k_j, in chunks.

    Summed by themselves, the weights cost less room than as one more column of v. A row that sees nothing is zero.
    """
    n = q.shape[2]
    chunk = min(chunk, n)
    q, k, v = chunked(q, chunk), chunked(k, chunk), chunked(v, chunk)
    read, total = q @ _before(outer(k, v)), q @ _before(k.sum(3).unsqueeze(-1))
    inside = (q @ k.transpose(-1, -2)).tril_()
    del q, k
    total = total + inside.sum(-1, keepdim=True)
    out = averaged((inside @ v).add_(read), total)
    return out.flatten(2, 3)[:, :, :n]


def _before(gained: Tensor) -> Tensor:
    """Sum what each chunk gained (batch, heads, chunks, features, size) over the chunks before it."""
    return F.pad(gained[:, :, :-1], (0, 0, 0, 0, 1, 0)).cumsum(2)


def causal_linear_flops(n: int, features: int, size: int, chunk: int) -> float:
    """Count what `causal_linear` executes for one head: two products inside a chunk, two with the state."""
    chunk = min(chunk, n)
    chunks = -(-n // chunk)
    return 2.0 * chunks * (chunk * chunk * (features + size) + 2 * chunk * features * size)


def causal_average_flops(n: int, features: int, size: int, chunk: int) -> float:
    """Count what `causal_average` executes for one head: each query meets the sum of the keys, too."""
    chunk = min(chunk, n)
    return causal_linear_flops(n, features, size, chunk) + 2.0 * -(-n // chunk) * chunk * features


def appended(state: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Add keys and values (batch, heads, c, ·) to the state (batch, heads, features, size)."""
    return state + torch.einsum("bhcf,bhcd->bhfd", k, v)


def normalised(sums: Tensor) -> Tensor:
    """Divide by the last column, the sum of the weights; a row that sees nothing stays zero."""
    return averaged(sums[..., :-1], sums[..., -1:])


def averaged(sums: Tensor, total: Tensor) -> Tensor:
    """Divide sums (..., size) by the sum of their weights (..., 1); a row that sees nothing stays zero."""
    if not torch.is_grad_enabled():
        return sums / total.where(total > 0, 1.0)
    out: Tensor = _Average.apply(sums, total)  # type: ignore[no-untyped-call]
    return out


class _Average(torch.autograd.Function):
    """A division that keeps its result for backward, not its numerator; 1 over small weights would overflow."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, total: Tensor) -> Tensor:
        total = total.where(total > 0, 1.0)
        out = sums / total
        ctx.save_for_backward(out, total)
        return out

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor]:
        out, total = ctx.saved_tensors
        of_total = (of_out * out).sum(-1, keepdim=True) / -total  # nothing where nothing is seen
        return of_out / total, of_total
