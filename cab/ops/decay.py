"""Linear attention with exponential decay: prefix sums of outer products that fade at a fixed rate per head.

With the decay factor g = exp(-rate) of a head, out_i = sum over j <= i of g^(i - j) (q_i . k_j) v_j. In a chunk of C
tokens Q, K, V, numbered p = 0 ... C - 1, after the state S_c of all chunks before it,

    out = diag(g^(p + 1)) Q S_c + (Q K^T * D) V,   D_(p, r) = g^(p - r) for r <= p, else 0
    S_(c+1) = g^C S_c + (diag(g^(C - 1 - p)) K)^T V

(the tiles of arXiv 2401.04658; the chunkwise form of retention, arXiv 2307.08621, equation 7). Every exponent of g is
at least 0, so every factor is at most 1.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cab.ops.prefix import chunked, outer_sum
from cab.ops.segment_scan import scan_segments

TokenMap = Callable[[Tensor], Tensor]


def decayed_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    chunk: int,
    bidirectional: bool = False,
    token_map: TokenMap = Tensor.contiguous,
) -> Tensor:
    """Return sum over j <= i of exp(-rate (i - j)) (q_i . k_j) v_j; if `bidirectional`, over all j with |i - j|.

    q and k are (batch, heads, n, dim), v is (batch, heads, n, size), rate is (heads,) and not negative; the result is
    (batch, heads, n, size). `token_map` is applied to q, k and v first, token by token. O(n (chunk + dim) size) time,
    and memory linear in n.
    """
    chunk = min(chunk, q.shape[2])
    if bidirectional:
        return _chunkwise(q, k, v, None, rate, chunk, bidirectional, token_map)[0]
    step = partial(_chunkwise, rate=rate, chunk=chunk, bidirectional=False, token_map=token_map)
    return scan_segments(step, (q, k, v), None, 2 * chunk)[0]  # longer segments: a chunk is only two products


def _chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    rate: Tensor,
    chunk: int,
    bidirectional: bool,
    token_map: TokenMap,
) -> tuple[Tensor, Tensor | None]:
    """Return the sums, and the state after the last token. A state of None is one of zeros."""
    n = q.shape[2]
    q, k, v = (chunked(token_map(t), chunk) for t in (q, k, v))
    inter_chunk = None
    if q.shape[2] > 1 or state is not None:
        position = torch.arange(chunk, device=q.device)
        from_start = decay_factors(rate, position + 1, q).unsqueeze(1)  # from the last token of the chunk before
        to_end = decay_factors(rate, chunk - 1 - position, q).unsqueeze(1)  # to the last token of this chunk
        chunk_decay = (-rate * chunk).exp().view(-1, 1, 1)
        states, state = _states_before_chunks(outer_sum(k * to_end, v), chunk_decay, state)
        inter_chunk = (q @ states).mul_(from_start)
        del states
        if bidirectional:
            states = _states_before_chunks(outer_sum(k * from_start, v).flip(2), chunk_decay)[0].flip(2)
            inter_chunk.add_((q @ states).mul_(to_end))
            del states
    scores = (q @ k.transpose(-1, -2)).mul_(_decay_matrix(rate, chunk, bidirectional, q))
    del q, k
    out = scores @ v
    return (out if inter_chunk is None else out.add_(inter_chunk)).flatten(2, 3)[:, :, :n], state


def decayed_linear_flops(n: int, dim: int, size: int, chunk: int, bidirectional: bool = False) -> float:
    """Count the FLOPs of `decayed_linear` for one head: two products inside each chunk, two with each state."""
    chunk = min(chunk, n)
    chunks = -(-n // chunk)
    states = 0 if chunks == 1 else 2 if bidirectional else 1
    return 2.0 * chunks * (chunk * chunk * (dim + size) + states * 2 * chunk * dim * size)


def decay_factors(rate: Tensor, steps: Tensor, like: Tensor) -> Tensor:
    """Return exp(-rate steps) in the dtype of `like`.

    rate is (heads,). Steps (tokens,) give (heads, tokens, 1); steps (batch, tokens) give (batch, heads, tokens, 1).
    """
    rate = rate.unsqueeze(-1)
    return (-rate * (steps.unsqueeze(-2) if steps.dim() > 1 else steps)).exp().to(like.dtype).unsqueeze(-1)


def _decay_matrix(rate: Tensor, chunk: int, bidirectional: bool, like: Tensor) -> Tensor:
    """Return D of the module's docstring, (heads, 1, chunk, chunk), in the dtype of `like`."""
    position = torch.arange(chunk, device=like.device)
    distance = position.unsqueeze(1) - position
    factors = (-rate.view(-1, 1, 1, 1) * distance.abs()).exp()
    return (factors if bidirectional else factors.tril()).to(like.dtype)


def _states_before_chunks(updates: Tensor, chunk_decay: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, and after the last: S_(c+1) = chunk_decay S_c + updates_c.

    updates is (batch, heads, chunks, dim, size), chunk_decay is (heads, 1, 1), a state is (batch, heads, dim, size).
    """
    states = [torch.zeros_like(updates[:, :, 0], dtype=chunk_decay.dtype) if state is None else state]
    for update in updates.unbind(2):  # not indexed: the backward of indexing is quadratic in the number of chunks
        states.append(update + chunk_decay * states[-1])
    dtype = updates.dtype
    del updates, update
    return torch.stack(states[:-1], 2).to(dtype), states[-1]
