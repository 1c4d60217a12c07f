"""Gated linear attention against linear attention without gates and against its recurrence."""

import pytest
import torch
from torch import Tensor

from cab.ops.decay import decayed_linear
from cab.ops.gated import gated_linear, scalar_gated_linear
from cab.ops.prefix import causal_linear


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def qkv(n: int, m: int | None = None, dim: int = 8) -> list[Tensor]:
    return [normal(2, 2, length, dim, seed=seed) for seed, length in enumerate((n, m or n, m or n))]


@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_gates_and_decay_that_keep_everything_give_linear_attention(chunk: int) -> None:
    q, k, v = qkv(37)
    expected = causal_linear(q, k, v, 16)
    state = k.new_zeros(2, 2, 8, 8)
    torch.testing.assert_close(gated_linear(q, k, v, torch.zeros_like(k), state, chunk)[0], expected)
    torch.testing.assert_close(decayed_linear(q, k, v, torch.zeros(2, dtype=torch.float64), chunk), expected)


def test_gates_that_forget_everything_at_once_are_exact_in_float32() -> None:
    q, k, v = (t.float() for t in qkv(64))
    gate = torch.full_like(k, -1e4)
    gate[:, :, ::7] = 0.0
    out = gated_linear(q, k, v, gate, k.new_zeros(2, 2, 8, 8), 32)[0]
    state, rows = k.new_zeros(2, 2, 8, 8), []
    for t in range(64):
        state = gate[:, :, t].exp().unsqueeze(-1) * state + k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        rows.append((q[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
    torch.testing.assert_close(out, torch.stack(rows, 2))


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_one_gate_of_a_token_is_the_same_gate_in_every_channel(chunk: int) -> None:
    q, k, v = qkv(37)
    gate, state = -normal(2, 2, 37, 1, seed=3).exp(), normal(2, 2, 8, 8, seed=4)
    expected = gated_linear(q, k, v, gate.expand_as(k), state, 8)
    torch.testing.assert_close(scalar_gated_linear(q, k, v, gate, state, chunk), expected)


def test_a_token_is_exact_after_one_that_forgets_everything() -> None:
    q, k, v = (t.float() for t in qkv(64))
    gate = torch.full((2, 2, 64, 1), -0.1)
    gate[:, :, 40] = -1e6
    out = scalar_gated_linear(q, k, v, gate, k.new_zeros(2, 2, 8, 8), 64)[0]
    after = [t[:, :, 40:] for t in (q, k, v, gate)]
    torch.testing.assert_close(out[:, :, 40:], scalar_gated_linear(*after, k.new_zeros(2, 2, 8, 8), 64)[0])
