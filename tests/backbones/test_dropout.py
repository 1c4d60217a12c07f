"""Dropout has the distribution, scale and gradient of torch's, and draws from the same generator."""

import pytest
import torch
from torch import Tensor

from cab.backbones.dropout import Dropout


def dropped(p: float, shape: tuple[int, ...] = (400, 1001), seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return Dropout(p)(torch.ones(shape))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_and_the_scale_are_as_asked(p: float) -> None:
    out = dropped(p)
    share, deviation = (out == 0).double().mean().item(), (p * (1 - p) / out.numel()) ** 0.5
    assert abs(share - p) < 4 * deviation
    torch.testing.assert_close(out[out != 0].unique(), torch.tensor([1 / (1 - p)]), rtol=1e-4, atol=0)


def test_elements_are_dropped_independently() -> None:
    centred = (dropped(0.3, (400_003,)) == 0).double() - 0.3
    for lag in (1, 2, 3, 4, 8, 64):  # four share a 64-bit word
        correlation = (centred[lag:] * centred[:-lag]).mean() / 0.21
        assert abs(correlation.item()) < 4 / len(centred) ** 0.5
    by_lane = torch.stack([centred[lane:400_000:4] for lane in range(4)]).mean(1)
    assert by_lane.abs().max() < 4 * (0.21 / 100_000) ** 0.5


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(7, 5, 3, requires_grad=True)
    out = Dropout(0.4)(x.transpose(0, 2)).transpose(0, 2)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(out, x * x.grad)
    assert 0 < (x.grad == 0).sum() < x.numel()


def test_a_seed_decides_and_nothing_is_drawn_where_nothing_is_dropped() -> None:
    assert torch.equal(dropped(0.2, seed=1), dropped(0.2, seed=1))
    assert not torch.equal(dropped(0.2, seed=1), dropped(0.2, seed=2))
    x, before = torch.randn(5), torch.get_rng_state()
    assert torch.equal(Dropout(0.5).eval()(x), x) and torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), before)
    assert Dropout(1.0)(x).count_nonzero() == 0


def test_other_types_and_devices_are_served() -> None:
    assert Dropout(0.5)(torch.ones(64, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert Dropout(0.5)(torch.ones(2, 3, device="meta")).shape == (2, 3)
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)
