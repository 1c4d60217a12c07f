"""The gated delta rule in chunks against its recurrence, and what it remembers."""

import pytest
import torch
from torch import Tensor

from cab.instruments.flop_counter import count_flops
from cab.ops.delta_rule import delta_rule, delta_rule_flops


def tokens(n: int, dim: int = 5, size: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v, beta, decay = (torch.randn(2, 2, n, s, generator=generator).double() for s in (dim, dim, size, 1, 1))
    return [q, k / k.norm(dim=-1, keepdim=True), v, 2 * beta.sigmoid(), -decay.exp()]


def recurrence(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    rows = []
    for t in range(q.shape[2]):
        key, state = k[:, :, [t]], decay[:, :, [t]].exp() * state
        state = state + beta[:, :, [t]] * key.mT @ (v[:, :, [t]] - key @ state)
        rows.append(q[:, :, [t]] @ state)
    return torch.cat(rows, 2), state


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
def test_the_chunk_changes_neither_results_nor_gradients(chunk: int) -> None:
    leaves = [t.requires_grad_() for t in (*tokens(21), torch.randn(2, 2, 5, 3).double())]
    results = []
    for out, state in (recurrence(*leaves), delta_rule(*leaves, chunk=chunk)):
        assert out is not None
        weight = torch.linspace(-1, 1, out.numel()).double().reshape(out.shape)
        results.append([out, state, *torch.autograd.grad((out * weight).sum() + state.square().sum(), leaves)])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(delta_rule(None, *leaves[1:], chunk=chunk)[1], results[0][1])


def test_orthonormal_keys_recall_their_values_and_a_second_value_takes_the_place_of_the_first() -> None:
    k = torch.eye(5).double().repeat(2, 1)[None, None]
    v = torch.randn(1, 1, 10, 3).double()
    ones, never = torch.ones(1, 1, 10, 1).double(), torch.zeros(1, 1, 10, 1).double()
    out, state = delta_rule(k, k, v, ones, never, torch.zeros(1, 1, 5, 3).double(), 4)
    torch.testing.assert_close(out, v)
    torch.testing.assert_close(k[:, :, 5:] @ state, v[:, :, 5:])


def test_a_state_that_is_forgotten_at_once_is_exact_in_float32() -> None:
    q, k, v, beta, decay = (t.float() for t in tokens(40))
    decay[:, :, ::7] = -1e4
    start = torch.zeros(2, 2, 5, 3)
    out, _ = delta_rule(q, k, v, beta, decay, start, 16)
    torch.testing.assert_close(out, recurrence(q, k, v, beta, decay, start)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("n", [5, 8, 21])
def test_the_flops_are_those_that_are_counted(n: int, read: bool) -> None:
    q, *rest = (t[:1, :1] for t in tokens(n))
    counted = count_flops(lambda: delta_rule(q if read else None, *rest, torch.zeros(1, 1, 5, 3).double(), chunk=8))
    assert counted == delta_rule_flops(n, 5, 3, 8, read)
