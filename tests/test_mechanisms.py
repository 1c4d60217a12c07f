"""The shipped mechanisms against their definitions, in float64, in every pattern that they declare."""

import pytest
import torch
from cab.mechanisms.linear import Linear
from cab.mechanisms.none import Nothing
from cab.mechanisms.softmax import Softmax
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cab import Pattern, Slot

BACKENDS = ("eager", "sdpa")


def draw(pattern: Pattern, n: int = 37, m: int = 29, heads: int = 4, kv_heads: int = 4) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    m = m if pattern.cross else n

    def normal(h: int, length: int, size: int) -> Tensor:
        return torch.randn(2, h, length, size, generator=generator, dtype=torch.float64, requires_grad=True)

    return normal(heads, n, 5), normal(kv_heads, m, 5), normal(kv_heads, m, 7)


def build(pattern: Pattern, kv_heads: int = 4) -> Softmax:
    return Softmax(Slot(pattern, heads=4, dim=5, max_len=64, value_dim=7, kv_heads=kv_heads))


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_softmax_equals_its_definition(pattern: Pattern, backend: str, kv_heads: int, masked: bool) -> None:
    q, k, v = draw(pattern, kv_heads=kv_heads)
    mask = torch.arange(k.shape[2]) < torch.tensor([[k.shape[2]], [11]]) if masked else None
    softmax = build(pattern, kv_heads).use(backend)
    out = softmax(q, k, v, key_mask=mask)
    expected = softmax.reference(q, k, v, mask)
    if mask is not None and not pattern.cross:
        expected = expected * mask[:, None, :, None]
    same(out, expected)
    pull = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(out, (q, k, v), pull), torch.autograd.grad(expected, (q, k, v), pull), strict=True
    ):
        same(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cut", [1, 2, 17, 36])
def test_causal_self_never_sees_the_future_and_uses_the_past(backend: str, cut: int) -> None:
    q, k, v = draw(Pattern.CS)
    softmax = build(Pattern.CS).use(backend)
    out = softmax(q, k, v)
    same(softmax(q[:, :, :cut], k[:, :, :cut], v[:, :, :cut]), out[:, :, :cut])
    changed = v.detach().clone()
    changed[:, :, cut:] += 1
    same(softmax(q, k, changed)[:, :, :cut], out[:, :, :cut])
    changed = v.detach().clone()
    changed[:, :, 0] += 1
    assert (softmax(q, k, changed)[:, :, cut] - out[:, :, cut]).abs().max() > 1e-6


@pytest.mark.parametrize("pattern", [Pattern.CS, Pattern.CC])
@pytest.mark.parametrize("split", [(37,), (1,) * 37, (5, 1, 20, 11)])
def test_softmax_streams_to_the_parallel_result(pattern: Pattern, split: tuple[int, ...]) -> None:
    q, k, v = draw(pattern)
    softmax = build(pattern)
    cross = pattern.cross
    state = softmax.init_state(k if cross else k[:, :, :0], v if cross else v[:, :, :0])
    parts, start = [], 0
    for c in split:
        now = slice(start, start + c)
        new = (None, None) if cross else (k[:, :, now], v[:, :, now])
        part, state = softmax.step(state, q[:, :, now], *new)
        parts.append(part)
        start += c
    same(torch.cat(parts, 2), softmax(q, k, v))


def test_a_masked_token_leaves_its_rows_state_as_it_was() -> None:
    q, k, v = draw(Pattern.CS, n=6)
    softmax = build(Pattern.CS)
    state = softmax.init_state(k[:, :, :0], v[:, :, :0])
    mask = torch.tensor([[True] * 6, [True, False, True, False, True, True]])
    out, _ = softmax.step(state, q, k, v, mask)
    kept = mask[1].nonzero()[:, 0]
    alone = softmax(*(t[1:, :, kept] for t in (q, k, v)))
    same(out[1:, :, kept], alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sample_that_sees_nothing_gives_zeros_and_finite_gradients(backend: str) -> None:
    q, k, v = draw(Pattern.NC)
    mask = torch.stack([torch.ones(29, dtype=torch.bool), torch.zeros(29, dtype=torch.bool)])
    out = build(Pattern.NC).use(backend)(q, k, v, key_mask=mask)
    assert out[1].eq(0).all() and out[0].ne(0).all()
    for gradient in torch.autograd.grad(out.square().sum(), (q, k, v)):
        assert gradient.isfinite().all() and gradient[1].eq(0).all()


def test_masked_half_is_counted_as_executed_but_not_as_needed() -> None:
    softmax = build(Pattern.CS)
    assert softmax.flops(10, 10) == 2 * 4 * 100 * 12
    assert softmax.flops_needed(10, 10) == 2 * 4 * 55 * 12


@pytest.mark.parametrize("pattern", Pattern)
def test_none_gives_zeros_of_the_modules_dtype(pattern: Pattern) -> None:
    slot = Slot(pattern, heads=4, dim=5, max_len=64, value_dim=7)
    mask = torch.ones(2, 9, dtype=torch.bool)
    masks = {"query_mask": mask} if pattern.cross else {"key_mask": mask}
    out = Nothing(slot).bfloat16()(**masks)
    assert out.shape == (2, 4, 9, 7) and out.dtype == torch.bfloat16 and out.eq(0).all()


def build_linear(pattern: Pattern, chunk: int = 4) -> Linear:
    return Linear(Slot(pattern, heads=4, dim=5, max_len=64, value_dim=7), chunk=chunk)


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("masked", [False, True])
def test_linear_equals_its_definition(pattern: Pattern, chunk: int, masked: bool) -> None:
    q, k, v = draw(pattern)
    mask = torch.arange(k.shape[2]) < torch.tensor([[k.shape[2]], [11]]) if masked else None
    linear = build_linear(pattern, chunk)
    out = linear(q, k, v, key_mask=mask)
    expected = linear.reference(q, k, v, mask)
    if mask is not None and not pattern.cross:
        expected = expected * mask[:, None, :, None]
    same(out, expected)
    pull = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(out, (q, k, v), pull), torch.autograd.grad(expected, (q, k, v), pull), strict=True
    ):
        same(ours, theirs)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 36])
def test_causal_linear_never_sees_the_future_and_uses_the_past(cut: int) -> None:
    q, k, v = draw(Pattern.CS)
    linear = build_linear(Pattern.CS)
    out = linear(q, k, v)
    same(linear(q[:, :, :cut], k[:, :, :cut], v[:, :, :cut]), out[:, :, :cut])
    changed = v.detach().clone()
    changed[:, :, 0] += 1
    assert (linear(q, k, changed)[:, :, cut] - out[:, :, cut]).abs().max() > 1e-6


@pytest.mark.parametrize("pattern", [Pattern.CS, Pattern.CC])
@pytest.mark.parametrize("split", [(37,), (1,) * 37, (5, 1, 20, 11)])
def test_linear_streams_to_the_parallel_result(pattern: Pattern, split: tuple[int, ...]) -> None:
    q, k, v = draw(pattern)
    linear = build_linear(pattern)
    cross = pattern.cross
    state = linear.init_state(k if cross else k[:, :, :0], v if cross else v[:, :, :0])
    parts, start = [], 0
    for c in split:
        now = slice(start, start + c)
        new = (None, None) if cross else (k[:, :, now], v[:, :, now])
        part, state = linear.step(state, q[:, :, now], *new)
        parts.append(part)
        start += c
    same(torch.cat(parts, 2), linear(q, k, v))


def test_a_linear_sample_that_sees_nothing_gives_zeros_and_finite_gradients() -> None:
    q, k, v = draw(Pattern.NC)
    mask = torch.stack([torch.ones(29, dtype=torch.bool), torch.zeros(29, dtype=torch.bool)])
    out = build_linear(Pattern.NC)(q, k, v, key_mask=mask)
    assert out[1].eq(0).all() and out[0].ne(0).all()
    for gradient in torch.autograd.grad(out.square().sum(), (q, k, v)):
        assert gradient.isfinite().all() and gradient[1].eq(0).all()


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize("mechanism", [Softmax, Linear])
def test_flops_equal_what_the_counter_sees_on_meta_tensors(pattern: Pattern, mechanism: type[Softmax | Linear]) -> None:
    n, m = 301, 203 if pattern.cross else 301
    slot = Slot(pattern, heads=4, dim=16, max_len=301, source_len=m, value_dim=24)
    q, k, v = (torch.empty(1, 4, length, size, device="meta") for length, size in ((n, 16), (m, 16), (m, 24)))
    with FlopCounterMode(display=False) as counter:
        mechanism(slot).attend(q, k, v)
    assert mechanism(slot).flops(n, m) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk=0"):
        build_linear(Pattern.CS, 0)
