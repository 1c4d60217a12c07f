"""The linear recurrence in chunks against its loop over the tokens, with gradients."""

import pytest
import torch
from torch import Tensor

from cab.ops.linear_scan import _run, _run_by_doubling, linear_scan


def drawn(n: int) -> list[Tensor]:
    torch.manual_seed(0)
    addend, state = torch.randn(2, 3, n, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    return [t.requires_grad_() for t in (torch.rand(2, 3, n, 4, dtype=torch.float64), addend, state)]


def loop(decay: Tensor, addend: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    states = []
    for t in range(decay.shape[2]):
        state = decay[:, :, t] * state + addend[:, :, t]
        states.append(state)
    return torch.stack(states, 2), state


@pytest.mark.parametrize("n", [1, 8, 37])
@pytest.mark.parametrize("chunk", [1, 5, 8, 64])
def test_states_and_gradients_are_those_of_the_loop(n: int, chunk: int) -> None:
    tensors = drawn(n)
    weights = [torch.randn(t.shape, dtype=t.dtype) for t in loop(*tensors)]
    results = []
    for states, last in (linear_scan(*tensors, chunk), loop(*tensors)):
        loss = (states * weights[0]).sum() + (last * weights[1]).sum()
        results.append([states, last, *torch.autograd.grad(loss, tensors)])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected)
    with torch.no_grad():
        torch.testing.assert_close(linear_scan(*tensors, chunk), loop(*tensors))


def test_decays_of_zero_forget_what_came_before() -> None:
    decay, addend, state = drawn(37)
    with torch.no_grad():
        torch.testing.assert_close(linear_scan(torch.zeros_like(decay), addend, state, 8)[0], addend.detach())


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_compiled_computes_the_same(reverse: bool) -> None:
    decay, addend, state = drawn(40)
    with torch.no_grad():
        decay, addend = (t.unflatten(2, (5, 8)) for t in (decay, addend))
        expected = _run(decay, addend, state, reverse)
        torch.testing.assert_close(_run_by_doubling(decay, addend, state, reverse), expected)
