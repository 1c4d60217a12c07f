"""Linear attention over what came before: prefix sums of outer products, in chunks, with no loop over tokens."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cab.ops.precision import full_precision
from cab.ops.results import handed_out

BLOCK = 32  # tokens that are added up one by one
STRETCH = 32  # chunks, of any head, whose products follow one another on a CPU: what they share stays in its cache


def chunked(t: Tensor, chunk: int, value: float = 0.0) -> Tensor:
    """Cut (batch, heads, n, ·) into (batch, heads, chunks, chunk, ·); `value` fills up the last one."""
    tail = -t.shape[2] % chunk
    if tail and t.dtype is torch.bool:  # inductor's C++ for a comparison that is padded does not compile (torch 2.13)
        t = torch.cat([t, t.new_full((*t.shape[:2], tail, t.shape[3]), bool(value))], 2)
    elif tail:
        t = F.pad(t, (0, 0, 0, tail), value=value)
    return torch.unflatten(t, 2, (-1, chunk))


def fitted(chunk: int, n: int) -> int:
    """Halve a chunk as long as it would be half empty."""
    while chunk >= 2 * n > 1:
        chunk //= 2
    return chunk


def outer(k: Tensor, v: Tensor) -> Tensor:
    """Return sum over tokens of k_j v_j^T, (..., features, size); in this order k's gradient has k's layout."""
    return (v.transpose(-1, -2) @ k).transpose(-1, -2)


def prefix_sums(t: Tensor, start: Tensor | None = None) -> Tensor:
    """Add up t (batch, heads, n, ·) over the tokens up to each one, after `start` (batch, heads, ·), in blocks.

    Not recorded for backward, which `suffix_sums` are for.

    On a CPU, `cumsum` of the whole sequence takes twice as long: it walks down every channel for itself.
    """
    sums = chunked(t, BLOCK).cumsum(3)
    before = F.pad(sums[:, :, :-1, -1], (0, 0, 1, 0)).cumsum(2)
    if start is not None:
        before += start.unsqueeze(2)
    return sums.add_(before.unsqueeze(3)).flatten(2, 3)[:, :, : t.shape[2]]


def suffix_sums(t: Tensor) -> Tensor:
    """Add up t (batch, heads, n, ·) over the tokens from each one on; inside blocks by a product, to flip nothing."""
    blocks = chunked(t, BLOCK)
    from_each = t.new_ones(BLOCK, BLOCK).triu().expand(*blocks.shape[:3], -1, -1)
    sums = from_each @ blocks
    after = F.pad(sums[:, :, 1:, 0], (0, 0, 0, 1)).flip(2).cumsum(2).flip(2)
    return sums.add_(after.unsqueeze(3)).flatten(2, 3)[:, :, : t.shape[2]]


def causal_linear(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> Tensor:
    """Return sum over j <= i of (q_i . k_j) v_j, without a normaliser.

    q and k are (batch, heads, n, features), v is (batch, heads, n, size). Inside a chunk the scores are written out;
    before it, one state (features, size) stands for everything: O(n (chunk + features) size) time, and memory
    linear in n (Katharopoulos et al., arXiv 2006.16236, equation 10, in the block form).
    """
    return _causal(q, k, v, None, chunk, weigh=False)[0]


def carried_linear(q: Tensor, k: Tensor, v: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return `causal_linear` after what `state` (batch, heads, features, size) holds already, and the state after."""
    out, _, state = _causal(q, k, v, state, chunk, weigh=False)
    return out, state


def causal_average(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> Tensor:
    """Return `causal_linear` of v over that of ones: the mean of v over j <= i by weights q_i . k_j, in chunks.

    Summed by themselves, the weights cost less room than as one more column of v. A row that sees nothing is zero.
    """
    dtype = v.dtype
    q, k, v = summands(q, k, v)
    with full_precision(v.device.type):
        sums, total, _ = _causal(q, k, v, None, chunk, weigh=True)
        return averaged(sums, total).to(dtype)


def summands(*tensors: Tensor) -> list[Tensor]:
    """Return what products take under autocast, but float32 for float16, where the sum of many weights is infinite.

    The products are then for `full_precision`, or autocast would round again.
    """
    dtypes = [product_type(t) for t in tensors]
    dtypes = [torch.float32 if dtype is torch.float16 else dtype for dtype in dtypes]
    return [t.to(dtype) for t, dtype in zip(tensors, dtypes, strict=True)]


def product_type(t: Tensor) -> torch.dtype:
    """Return the type in which autocast, if it is on, computes products of t."""
    device = t.device.type
    mixed = device != "meta" and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if mixed else t.dtype


def _causal(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, chunk: int, weigh: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of v, those of ones if `weigh` (else nothing), and the state after the last token."""
    n = q.shape[2]
    chunk = min(chunk, n)
    q, k, v = (t.to(product_type(t)) for t in (q, k, v))
    if state is None:
        state = v.new_zeros(*v.shape[:2], q.shape[3], v.shape[3])
    q, k, v = (chunked(t, chunk).contiguous() for t in (q, k, v))  # once, for all products
    if torch.is_grad_enabled():
        out, total, end = _Causal.apply(q, k, v, state, weigh)  # type: ignore[no-untyped-call]
    else:
        out, total, end = _forward(q, k, v, state, weigh, keep=False)
    return out.flatten(2, 3)[:, :, :n], total.flatten(2, 3)[:, :, :n], end


def _forward(q: Tensor, k: Tensor, v: Tensor, state: Tensor, weigh: bool, keep: bool = True) -> list[Tensor]:
    """Return the three results in chunks, and to keep: what came before each chunk; sums of keys, or all scores."""
    before, end = _before(k, v, state)
    out, total, kept = torch.empty_like(v), q.new_empty(*q.shape[:4], 0), [before] if keep else []
    if weigh:
        ones = v.new_ones(1, 1, 1, 1, 1).expand(*v.shape[:4], 1)
        keys, _ = _before(ones, k, torch.zeros_like(k[:, :, 0, :1]))
        total = q @ keys.transpose(-1, -2)
        kept += [keys] if keep else []
    for q_, k_, v_, before_, out_, *total_ in _stretches(q, k, v, before, out, *([total] if weigh else [])):
        torch.bmm(q_, before_, out=out_)
        scores = torch.bmm(q_, k_.transpose(-1, -2)).tril_()
        torch.baddbmm(out_, scores, v_, out=out_)  # PyTorch's counter does not know baddbmm_
        if weigh:
            total_[0].add_(scores.sum(-1, keepdim=True, dtype=total.dtype))
        elif keep:
            kept.append(scores)
    return [out, total, end, *kept]


def _stretches(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views (chunks, ·, ·) of tensors (batch, heads, chunks, ·, ·), of a few chunks each."""
    whole = torch.compiler.is_compiling() or tensors[0].device.type != "cpu"
    chunks = [t.flatten(0, 2) for t in tensors]
    return zip(*(torch.split(t, len(t) if whole else STRETCH) for t in chunks), strict=True)


class _Causal(torch.autograd.Function):
    """Its backward adds products up in place, which autograd does not."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, state: Tensor, weigh: bool) -> tuple[Tensor, Tensor, Tensor]:
        out, total, end, *kept = _forward(q, k, v, state, weigh)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.weigh = weigh
        ctx.set_materialize_grads(False)
        return handed_out(out), handed_out(total), end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor | None, of_total: Tensor, of_end: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, before, *other = ctx.saved_tensors  # the sums of keys, or the scores of each stretch
        of_out = torch.zeros_like(v) if of_out is None else of_out.contiguous()  # a sum's has no strides, and is slow
        of_state = torch.zeros_like(before[:, :, 0]) if of_end is None else of_end
        after, of_state = _before(q, of_out, of_state, backward=True)
        of_q, of_k, of_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        weights, inside = ((of_total, other[0]), []) if ctx.weigh else ((), other)
        for i, (q_, k_, v_, before_, after_, of_out_, of_q_, of_k_, of_v_, *weights_) in enumerate(
            _stretches(q, k, v, before, after, of_out, of_q, of_k, of_v, *weights)
        ):
            of_scores = torch.bmm(of_out_, v_.transpose(-1, -2))
            torch.bmm(of_out_, before_.transpose(-1, -2), out=of_q_)
            if weights_:
                of_scores.add_(weights_[0])
                of_q_.addcmul_(*weights_)
            of_scores.tril_()
            torch.baddbmm(of_q_, of_scores, k_, out=of_q_)
            torch.bmm(of_scores.transpose(-1, -2), q_, out=of_k_)
            torch.baddbmm(of_k_, v_, after_.transpose(-1, -2), out=of_k_)
            scores = inside[i] if inside else torch.bmm(q_, k_.transpose(-1, -2)).tril_()
            torch.bmm(k_, after_, out=of_v_)
            torch.baddbmm(of_v_, scores.transpose(-1, -2), of_out_, out=of_v_)
        if ctx.weigh:
            of_k.add_(_before(of_total, q, torch.zeros_like(q[:, :, 0, :1]), backward=True)[0])
        return of_q, of_k, of_v, of_state, None


def _before(a: Tensor, b: Tensor, total: Tensor, backward: bool = False) -> tuple[Tensor, Tensor]:
    """Return, for each chunk, the sum of a^T b over the chunks before it, from `total` on, and the sum over all.

    a and b are (batch, heads, chunks, ·, ·); `backward` sums over the chunks after it.
    """
    if torch.compiler.is_compiling() or a.device.type != "cpu":
        gained = outer(a, b)
        gained = gained.flip(2) if backward else gained
        # a scan on a GPU keeps what it has summed in its own type, and in 16 bits that would stop growing
        wide = torch.promote_types(gained.dtype, torch.float32)
        sums = torch.cat([total.unsqueeze(2).to(wide), gained.to(wide)], 2).cumsum(2)
        before = sums[:, :, :-1].to(gained.dtype)
        return before.flip(2) if backward else before, sums[:, :, -1].to(total.dtype)
    # on the CPU, a cumsum over an axis that is not the last one takes six times as long
    (batch, heads, chunks), wide = a.shape[:3], torch.promote_types(a.dtype, torch.float32)
    # each product stands where the next chunk finds it; a head's last one moves out, and its first place is the total's
    sums = torch.empty(batch * heads * chunks + 1, a.shape[4], b.shape[4], dtype=wide)
    gained, found = (sums[:-1], sums[1:]) if backward else (sums[1:], sums[:-1])
    a, b = a.flatten(0, 2).transpose(-1, -2), b.flatten(0, 2)
    if wide is a.dtype:
        torch.bmm(a, b, out=gained)
    else:
        gained.copy_(a @ b)
    gained, found = (torch.unflatten(t, 0, (batch * heads, chunks)) for t in (gained, found))
    first, last = (-1, 0) if backward else (0, -1)
    over = gained[:, last].clone()
    found[:, first] = total.flatten(0, 1)
    each = found.unbind(1)[:: -1 if backward else 1]
    for earlier, here in zip(each, each[1:], strict=False):
        here.add_(earlier)
    over += each[-1]
    before, over = (torch.unflatten(t, 0, (batch, heads)) for t in (found, over))
    return before.to(a.dtype), over.to(total.dtype)


def causal_linear_flops(n: int, features: int, size: int, chunk: int) -> float:
    """Count what `causal_linear` executes for one head: two products inside a chunk, two with the state."""
    chunk = min(chunk, n)
    chunks = -(-n // chunk)
    return 2.0 * chunks * (chunk * chunk * (features + size) + 2 * chunk * features * size)


def causal_average_flops(n: int, features: int, size: int, chunk: int) -> float:
    """Count what `causal_average` executes for one head: each key joins a sum that each query meets, too."""
    chunk = min(chunk, n)
    return causal_linear_flops(n, features, size, chunk) + 4.0 * -(-n // chunk) * chunk * features


def appended(state: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Add keys and values (batch, heads, c, ·) to the state (batch, heads, features, size), in its type."""
    return state + torch.einsum("bhcf,bhcd->bhfd", k.to(state.dtype), v.to(state.dtype))


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
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor]:
        out, total = ctx.saved_tensors
        of_total = (of_out * out).sum(-1, keepdim=True) / -total  # nothing where nothing is seen
        return of_out / total, of_total
