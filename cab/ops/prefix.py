"""Causal linear attention by prefix sums of outer products, in chunks, without a loop over tokens.

Out of q_i, k_j (features) and v_j (size) it computes

    out_i = sum over j <= i of (q_i . k_j) v_j = q_i^T S_i,   S_i = sum over j <= i of k_j v_j^T

(Katharopoulos et al., arXiv 2006.16236, equation 10, without the normaliser). In chunk c, with the tokens Q, K, V and
the state S_c of all chunks before it, the rows are

    out = Q S_c + tril(Q K^T) V,   S_(c+1) = S_c + K^T V.

Let G be the gradient of out, and R_c the gradient of the final state plus Q^T G of all chunks after c. Then

    grad Q = G S_c^T + tril(G V^T) K
    grad K = V R_c^T + tril(G V^T)^T Q
    grad V = K R_c   + tril(Q K^T)^T G,

and the gradient of the initial state is R before the first chunk.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cab.ops.autograd import fresh_view
from cab.ops.precision import at_least_float32, full_precision, product_dtype

BLOCK = 32  # tokens of a block of `prefix_sums`
GROUP = 32  # chunks, of any head, whose products follow one another on a CPU, so that their operands stay in its cache


def chunked(t: Tensor, chunk: int, fill: float = 0.0) -> Tensor:
    """Cut t (batch, heads, n, size) into chunks (batch, heads, chunks, chunk, size); `fill` pads the last one."""
    tail = -t.shape[2] % chunk
    if tail and t.dtype is torch.bool:  # inductor's C++ for a comparison that is padded does not compile (torch 2.13)
        t = torch.cat([t, t.new_full((*t.shape[:2], tail, t.shape[3]), bool(fill))], 2)
    elif tail:
        t = F.pad(t, (0, 0, 0, tail), value=fill)
    return torch.unflatten(t, 2, (-1, chunk))


def fit_chunk(chunk: int, n: int) -> int:
    """Halve the chunk until n tokens fill more than half of it."""
    while chunk >= 2 * n > 1:
        chunk //= 2
    return chunk


def outer_sum(k: Tensor, v: Tensor) -> Tensor:
    """Return the sum over tokens of k_j v_j^T: k (..., n, features) and v (..., n, size) give (..., features, size).

    The product is transposed so that the gradient of k has the layout of k.
    """
    return (v.transpose(-1, -2) @ k).transpose(-1, -2)


def prefix_sums(t: Tensor, initial: Tensor | None = None) -> Tensor:
    """Return the inclusive prefix sums over tokens of t (batch, heads, n, size), plus `initial` (batch, heads, size).

    Call it inside an autograd function, whose gradient is `suffix_sums`, or without gradients.

    The sum runs in blocks: on a CPU, one `cumsum` over the whole sequence takes twice as long, since it walks down
    each channel on its own.
    """
    sums = chunked(t, BLOCK).cumsum(3)
    before_block = F.pad(sums[:, :, :-1, -1], (0, 0, 1, 0)).cumsum(2)
    if initial is not None:
        before_block += initial.unsqueeze(2)
    return sums.add_(before_block.unsqueeze(3)).flatten(2, 3)[:, :, : t.shape[2]]


def suffix_sums(t: Tensor) -> Tensor:
    """Return the inclusive suffix sums of t (batch, heads, n, size) over the tokens.

    Inside a block the sum is a product with a triangular matrix, so that no block needs to be flipped.
    """
    blocks = chunked(t, BLOCK)
    from_each = t.new_ones(BLOCK, BLOCK).triu().expand(*blocks.shape[:3], -1, -1)
    sums = from_each @ blocks
    after_block = F.pad(sums[:, :, 1:, 0], (0, 0, 0, 1)).flip(2).cumsum(2).flip(2)
    return sums.add_(after_block.unsqueeze(3)).flatten(2, 3)[:, :, : t.shape[2]]


def causal_linear(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> Tensor:
    """Return sum over j <= i of (q_i . k_j) v_j, (batch, heads, n, size), without a normaliser.

    q and k are (batch, heads, n, features), v is (batch, heads, n, size). O(n (chunk + features) size) time, and
    memory linear in n.
    """
    return _causal(q, k, v, None, chunk, with_weight_sums=False)[0]


def causal_linear_from(q: Tensor, k: Tensor, v: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return `causal_linear` that continues from `state` (batch, heads, features, size), and the state at the end."""
    out, _, final_state = _causal(q, k, v, state, chunk, with_weight_sums=False)
    return out, final_state


def causal_average(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> Tensor:
    """Return the average of v over j <= i with the weights q_i . k_j: `causal_linear`, normalised.

    Shapes as for `causal_linear`. The sums of the weights are computed on their own, which takes less memory than a
    column of ones in v. A row whose weights are all zero is zero.
    """
    dtype = v.dtype
    q, k, v = summation_operands(q, k, v)
    with full_precision(v.device.type):
        sums, weight_sums, _ = _causal(q, k, v, None, chunk, with_weight_sums=True)
        return divide_by_weights(sums, weight_sums).to(dtype)


def summation_operands(*tensors: Tensor) -> list[Tensor]:
    """Cast tensors to the dtype of their products under autocast, or to float32 where that is float16.

    In float16 the sum of many weights is infinite. Multiply the result inside `full_precision`, or autocast rounds it
    again.
    """
    dtypes = [product_dtype(t) for t in tensors]
    dtypes = [torch.float32 if dtype is torch.float16 else dtype for dtype in dtypes]
    return [t.to(dtype) for t, dtype in zip(tensors, dtypes, strict=True)]


def _causal(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, chunk: int, with_weight_sums: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of `causal_linear`, the sums of the weights (batch, heads, n, 1), and the last state.

    Without `with_weight_sums` the second result is empty: (batch, heads, n, 0).
    """
    n = q.shape[2]
    chunk = min(chunk, n)
    q, k, v = (t.to(product_dtype(t)) for t in (q, k, v))
    if state is None:
        state = v.new_zeros(*v.shape[:2], q.shape[3], v.shape[3])
    q, k, v = (chunked(t, chunk).contiguous() for t in (q, k, v))  # once, not in each of the products
    if torch.is_grad_enabled():
        out, weight_sums, final_state = _Causal.apply(q, k, v, state, with_weight_sums)  # type: ignore[no-untyped-call]
    else:
        out, weight_sums, final_state = _forward(q, k, v, state, with_weight_sums, save=False)
    return out.flatten(2, 3)[:, :, :n], weight_sums.flatten(2, 3)[:, :, :n], final_state


def _forward(q: Tensor, k: Tensor, v: Tensor, state: Tensor, with_weight_sums: bool, save: bool = True) -> list[Tensor]:
    """Return the three results of `_causal` in chunks, then what backward needs, if `save`.

    Backward needs the state before each chunk. With weight sums it also needs the sum of the keys before each chunk,
    and without them the scores of each group of chunks.
    """
    states, final_state = _exclusive_sums(k, v, state)
    out, weight_sums, saved = torch.empty_like(v), q.new_empty(*q.shape[:4], 0), [states] if save else []
    if with_weight_sums:
        ones = v.new_ones(1, 1, 1, 1, 1).expand(*v.shape[:4], 1)
        key_sums, _ = _exclusive_sums(ones, k, torch.zeros_like(k[:, :, 0, :1]))
        weight_sums = q @ key_sums.transpose(-1, -2)
        saved += [key_sums] if save else []
    # names that end in _g are views of one group of chunks
    for q_g, k_g, v_g, states_g, out_g, *weight_sums_g in _groups(
        q, k, v, states, out, *([weight_sums] if with_weight_sums else [])
    ):
        torch.bmm(q_g, states_g, out=out_g)
        scores = torch.bmm(q_g, k_g.transpose(-1, -2)).tril_()
        torch.baddbmm(out_g, scores, v_g, out=out_g)  # PyTorch's FLOP counter does not know baddbmm_
        if with_weight_sums:
            weight_sums_g[0].add_(scores.sum(-1, keepdim=True, dtype=weight_sums.dtype))
        elif save:
            saved.append(scores)
    return [out, weight_sums, final_state, *saved]


def _groups(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views (chunks, rows, columns) of tensors (batch, heads, chunks, rows, columns), a group of chunks each.

    Groups are for the cache of a CPU; elsewhere, and in compiled code, all chunks are one group.
    """
    one_group = torch.compiler.is_compiling() or tensors[0].device.type != "cpu"
    chunks = [t.flatten(0, 2) for t in tensors]
    return zip(*(torch.split(t, len(t) if one_group else GROUP) for t in chunks), strict=True)


class _Causal(torch.autograd.Function):
    """The gradients of the module's docstring, with products accumulated in-place, which autograd does not do.

    The weight sums are w_i = q_i . z_i, where z_i is the sum of the keys up to i. With h their gradient and Z_c the sum
    of the keys before chunk c, G V^T becomes G V^T + h 1^T, grad Q gains h Z_c^T, and grad K gains the sum of Q^T h
    over all chunks after c.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, state: Tensor, with_weight_sums: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, weight_sums, final_state, *saved = _forward(q, k, v, state, with_weight_sums)
        ctx.save_for_backward(q, k, v, *saved)
        ctx.with_weight_sums = with_weight_sums
        ctx.set_materialize_grads(False)
        return fresh_view(out), fresh_view(weight_sums), final_state

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_weight_sums: Tensor, grad_final_state: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, states, *saved = ctx.saved_tensors
        # the gradient of a sum is expanded, with strides of zero, and products of such a tensor are slow
        grad_out = torch.zeros_like(v) if grad_out is None else grad_out.contiguous()
        grad_state = torch.zeros_like(states[:, :, 0]) if grad_final_state is None else grad_final_state
        grad_states, grad_state = _exclusive_sums(q, grad_out, grad_state, reverse=True)  # R of the module's docstring
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        sums: tuple[Tensor, ...] = ()
        scores_by_group: list[Tensor] = []
        if ctx.with_weight_sums:
            (key_sums,) = saved
            sums = grad_weight_sums, key_sums
        else:
            scores_by_group = saved
        tensors = (q, k, v, states, grad_states, grad_out, grad_q, grad_k, grad_v, *sums)
        for i, group in enumerate(_groups(*tensors)):
            q_g, k_g, v_g, states_g, grad_states_g, grad_out_g, grad_q_g, grad_k_g, grad_v_g, *sums_g = group
            grad_scores = torch.bmm(grad_out_g, v_g.transpose(-1, -2))
            torch.bmm(grad_out_g, states_g.transpose(-1, -2), out=grad_q_g)
            if sums_g:
                grad_weight_sums_g, key_sums_g = sums_g
                grad_scores.add_(grad_weight_sums_g)
                grad_q_g.addcmul_(grad_weight_sums_g, key_sums_g)
            grad_scores.tril_()
            torch.baddbmm(grad_q_g, grad_scores, k_g, out=grad_q_g)
            torch.bmm(grad_scores.transpose(-1, -2), q_g, out=grad_k_g)
            torch.baddbmm(grad_k_g, v_g, grad_states_g.transpose(-1, -2), out=grad_k_g)
            scores = scores_by_group[i] if scores_by_group else torch.bmm(q_g, k_g.transpose(-1, -2)).tril_()
            torch.bmm(k_g, grad_states_g, out=grad_v_g)
            torch.baddbmm(grad_v_g, scores.transpose(-1, -2), grad_out_g, out=grad_v_g)
        if ctx.with_weight_sums:
            grad_k.add_(_exclusive_sums(grad_weight_sums, q, torch.zeros_like(q[:, :, 0, :1]), reverse=True)[0])
        return grad_q, grad_k, grad_v, grad_state, None


def _exclusive_sums(a: Tensor, b: Tensor, initial: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """Return the exclusive prefix sums over the chunks of the products P_c = a_c^T b_c, and the sum over all chunks.

    a is (batch, heads, chunks, chunk, rows), b is (batch, heads, chunks, chunk, columns), `initial` is (batch, heads,
    rows, columns) and starts every sum. Chunk c of the result (batch, heads, chunks, rows, columns) holds `initial`
    plus all P before c; with `reverse`, all P after c.
    """
    if torch.compiler.is_compiling() or a.device.type != "cpu":
        products = outer_sum(a, b)
        products = products.flip(2) if reverse else products
        # a scan on a GPU accumulates in the dtype of its input: in 16 bits the sum would stop growing
        wide = at_least_float32(products)
        sums = torch.cat([initial.unsqueeze(2).to(wide), products.to(wide)], 2).cumsum(2)
        exclusive = sums[:, :, :-1].to(products.dtype)
        return exclusive.flip(2) if reverse else exclusive, sums[:, :, -1].to(initial.dtype)

    # On a CPU, a cumsum over an axis that is not the last takes six times as long as adding matrix to matrix in-place.
    # Products and sums share one buffer. Two heads of three chunks, with the products P and Q, initially S and T:
    #
    #     buffer row      0     1      2         3      4      5         6
    #     buffer[1:]            P0     P1        P2     Q0     Q1        Q2      products
    #     buffer[:-1]     S     S+P0   S+P0+P1   T      T+Q0   T+Q0+Q1           sums, in the products' place
    #
    # The last product of a head lies where the sums of the next head begin, so it is copied first. Reversed, products
    # are buffer[:-1] and sums are buffer[1:].
    (batch, heads, chunks), wide = a.shape[:3], at_least_float32(a)
    buffer = torch.empty(batch * heads * chunks + 1, a.shape[4], b.shape[4], dtype=wide)
    products, sums = (buffer[:-1], buffer[1:]) if reverse else (buffer[1:], buffer[:-1])
    a, b = a.flatten(0, 2).transpose(-1, -2), b.flatten(0, 2)
    if wide is a.dtype:
        torch.bmm(a, b, out=products)
    else:
        products.copy_(a @ b)
    products, sums = (torch.unflatten(t, 0, (batch * heads, chunks)) for t in (products, sums))
    first, last = (-1, 0) if reverse else (0, -1)
    total = products[:, last].clone()
    sums[:, first] = initial.flatten(0, 1)
    in_order = sums.unbind(1)[:: -1 if reverse else 1]
    for previous, current in pairwise(in_order):
        current.add_(previous)
    total += in_order[-1]
    exclusive, total = (torch.unflatten(t, 0, (batch, heads)) for t in (sums, total))
    return exclusive.to(a.dtype), total.to(initial.dtype)


def causal_linear_flops(n: int, features: int, size: int, chunk: int) -> float:
    """Count the FLOPs of `causal_linear` for one head: two products inside each chunk, two with the state."""
    chunk = min(chunk, n)
    chunks = -(-n // chunk)
    return 2.0 * chunks * (chunk * chunk * (features + size) + 2 * chunk * features * size)


def causal_average_flops(n: int, features: int, size: int, chunk: int) -> float:
    """Count the FLOPs of `causal_average` for one head: each key is also added to a sum, which each query reads."""
    chunk = min(chunk, n)
    return causal_linear_flops(n, features, size, chunk) + 4.0 * -(-n // chunk) * chunk * features


def updated_state(state: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the state after c new tokens k (batch, heads, c, features) and v (batch, heads, c, size), in its dtype."""
    return state + torch.einsum("bhcf,bhcd->bhfd", k.to(state.dtype), v.to(state.dtype))


def normalise(sums: Tensor) -> Tensor:
    """Divide sums (..., size + 1) by their last column, the sum of the weights; see `divide_by_weights`."""
    return divide_by_weights(sums[..., :-1], sums[..., -1:])


def divide_by_weights(sums: Tensor, weight_sums: Tensor) -> Tensor:
    """Divide sums (..., size) by the sums of their weights (..., 1), which are not negative.

    A row whose weights are all zero stays zero.
    """
    if not torch.is_grad_enabled():
        return sums / weight_sums.where(weight_sums > 0, 1.0)
    out: Tensor = _WeightedAverage.apply(sums, weight_sums)  # type: ignore[no-untyped-call]
    return out


class _WeightedAverage(torch.autograd.Function):
    """A division that saves its result for backward, not its numerator.

    It never forms 1 / weight_sums, which overflows for small weights.
    """

    @staticmethod
    def forward(ctx: Any, sums: Tensor, weight_sums: Tensor) -> Tensor:
        weight_sums = weight_sums.where(weight_sums > 0, 1.0)
        out = sums / weight_sums
        ctx.save_for_backward(out, weight_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor]:
        out, weight_sums = ctx.saved_tensors
        grad_weight_sums = (grad_out * out).sum(-1, keepdim=True) / -weight_sums
        return grad_out / weight_sums, grad_weight_sums
