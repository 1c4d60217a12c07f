"""Running softmax as linear attention: where that is not exact it is not used, and nothing overflows."""

import pytest
import torch
from torch import Tensor

from cab.ops.running_softmax import FLOOR, RunningWeights, empty_state, running_softmax


def drawn(n: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores, read, v = (torch.randn(2, 3, n, size, generator=generator) for size in (5, 5, 4))
    return (scores * scale).requires_grad_(), read.softmax(-1).requires_grad_(), v.requires_grad_()


def reference(scores: Tensor, read: Tensor, v: Tensor) -> Tensor:
    """The definition in float64: for each row and token a softmax over the tokens so far."""
    scores, read, v = (t.double() for t in (scores, read, v))
    rows = [
        read[:, :, i : i + 1] @ (scores[:, :, : i + 1].softmax(2).transpose(-1, -2) @ v[:, :, : i + 1])
        for i in range(v.shape[2])
    ]
    return torch.cat(rows, 2)


@pytest.mark.parametrize("scale", [1.0, 10.0, 40.0, 300.0, 1e4])
@pytest.mark.parametrize("wide", [True, False])
def test_it_equals_the_definition_at_any_scale_forward_and_backward(scale: float, wide: bool) -> None:
    leaves = drawn(37, scale)
    if wide:
        leaves = tuple(t.detach().double().requires_grad_() for t in leaves)
    out, (log_sum, mean) = running_softmax(*leaves, empty_state(5, leaves[2]), 16)
    expected = reference(*leaves)
    torch.testing.assert_close(out, expected.to(out.dtype), rtol=1e-4, atol=1e-5)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((out * weight).sum(), leaves)
    theirs = torch.autograd.grad((expected * weight).sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.isfinite().all()
        if wide or scale <= 40:  # in float32 the gradient of PyTorch's logcumsumexp is coarse at such scores
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
    assert log_sum.isfinite().all()
    assert mean.isfinite().all()


def test_linear_attention_is_used_where_scores_are_usual_and_not_where_the_log_sum_jumps() -> None:
    scores = drawn(32, 1.0)[0]
    log_sum = torch.full((2, 3, 5), FLOOR)
    assert RunningWeights.of(scores, log_sum) is not None
    jump = scores.detach().clone()
    jump[:, :, 23] += 100.0
    assert RunningWeights.of(jump, log_sum) is None
    assert RunningWeights.of(jump.double(), log_sum.double()) is not None


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
def test_a_running_softmax_is_safe_at_any_scale_in_float32(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, read, v = (torch.randn(1, 1, 200, size, generator=generator) for size in (3, 3, 5))
    scores, read = scale * scores, read.softmax(-1)
    leaves = [t.requires_grad_() for t in (scores, read, v)]
    ours = running_softmax(scores, read, v, empty_state(3, v), chunk=32)[0]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    s, r, w = doubles
    rows = [r[:, :, i : i + 1] @ (s[:, :, : i + 1].softmax(2).mT @ w[:, :, : i + 1]) for i in range(200)]
    torch.testing.assert_close(ours, torch.cat(rows, 2).float(), rtol=1e-4, atol=1e-5)
    for mine, true in zip(
        torch.autograd.grad(ours.sum(), leaves), torch.autograd.grad(torch.cat(rows, 2).sum(), doubles), strict=True
    ):
        assert mine.isfinite().all()
        if scale <= 10:  # beyond, a score's own rounding is worth more than the tolerance
            torch.testing.assert_close(mine, true.float(), rtol=1e-4, atol=1e-4)
