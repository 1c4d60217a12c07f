"""Relative convolutional attention: what a table's row is, and how the convolution runs."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry

HEADS, DIM, N, MAX_LEN = 2, 4, 9, 13


def built(pattern: str, **params: Any) -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), HEADS, DIM, MAX_LEN)
    return registry.load("mechanism", "rcmha")(slot, **params).double().eval()


def tokens(seed: int) -> Tensor:
    return torch.randn(1, HEADS, N, DIM, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(("pattern", "distance"), [("CS", -2), ("CS", 0), ("NS", -3), ("NS", 4)])
def test_a_large_entry_of_the_table_of_biases_makes_every_token_read_the_one_at_that_distance(
    pattern: str, distance: int
) -> None:
    mechanism, v = built(pattern, conv=1), tokens(2)
    with torch.no_grad():
        mechanism.convs[2].kernel.fill_(1.0)
        mechanism.b[:, MAX_LEN - 1 + distance] = 1e4
        out = mechanism(tokens(0), tokens(1), v)
    rows = [i for i in range(N) if 0 <= i + distance < N]
    torch.testing.assert_close(out[:, :, rows], v[:, :, [i + distance for i in rows]])


def test_all_heads_are_convolved_by_the_same_kernels() -> None:
    mechanism = built("CS")
    with torch.no_grad():
        out = mechanism(*(tokens(i)[:, :1].expand(-1, HEADS, -1, -1) for i in range(3)))
    torch.testing.assert_close(out[:, 0], out[:, 1])


@pytest.mark.parametrize("conv", [0, 2, -1])
def test_a_convolution_without_a_middle_is_refused(conv: int) -> None:
    with pytest.raises(ValueError, match=f"conv={conv}"):
        built("NS", conv=conv)
