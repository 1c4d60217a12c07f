"""Gated convolution: how far tokens reach, and its sizes."""

from typing import Any

import pytest
import torch
from cab.mechanisms.gated_conv import GatedConv
from torch import Tensor

from cab import Pattern, Slot, Unsupported


def build(pattern: str = "NS", **params: Any) -> GatedConv:
    torch.manual_seed(0)
    return GatedConv(Slot(Pattern.of(pattern), heads=2, dim=6, max_len=20), **params).double().eval()


def reached(mechanism: GatedConv) -> Tensor:
    """Return which tokens each row depends on, (20, 20)."""
    x = torch.randn(1, 20, 12, dtype=torch.float64, requires_grad=True)
    rows = mechanism(None, None, None, torch.ones(1, 20, dtype=torch.bool), y=x).sum((0, 1, 3))
    return torch.stack([torch.autograd.grad(row, x, retain_graph=True)[0][0].any(1) for row in rows])


def test_a_token_reads_its_neighbours_or_in_cs_what_came_before() -> None:
    away = torch.arange(20)[:, None] - torch.arange(20)
    assert torch.equal(reached(build(conv=5)), away.abs() <= 2)
    assert torch.equal(reached(build("CS", conv=5)), (away >= 0) & (away <= 4))


def test_the_paper_s_expansion_is_eight_thirds() -> None:
    assert build().sizes == (32, 20, 12)


def test_sizes_that_no_network_has_are_refused() -> None:
    with pytest.raises(ValueError, match="conv=4"):
        build(conv=4)
    for params in ({"share": 3.0}, {"share": 0.05}):
        with pytest.raises(Unsupported, match=f"share={params['share']}"):
            build(**params)
