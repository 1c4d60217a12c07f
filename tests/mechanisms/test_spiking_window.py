"""Spiking window attention: neurons that run over frames, and what a token reads."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot
from cab.plugins import registry


def build(pattern: str, raster: Any = (3, 2, 4), **params: Any) -> Mechanism:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=24, raster=raster, source_raster=raster)
    torch.manual_seed(0)
    return registry.load("mechanism", "spiking_window")(slot, **params).double().eval()


def tokens() -> Tensor:
    return torch.randn(1, 24, 16, dtype=torch.float64)


def test_queries_and_keys_are_one_or_two() -> None:
    features = build("NS")._features(tokens(), 0, None)  # type: ignore[operator]
    assert set(features.unique().tolist()) == {1.0, 2.0}


def test_a_neuron_remembers_the_earlier_frames_at_its_own_place() -> None:
    mechanism, x = build("NS"), tokens()
    torch.nn.init.constant_(mechanism.norms[0].weight, 5.0)  # many spikes
    before = mechanism._features(x, 0, None).view(1, 2, 3, 8, 8)  # type: ignore[operator]
    changed = x.clone()
    changed[:, 8:16] = -changed[:, 8:16]
    after = mechanism._features(changed, 0, None).view(1, 2, 3, 8, 8)  # type: ignore[operator]
    assert torch.equal(before[:, :, 0], after[:, :, 0]) and not torch.equal(before[:, :, 2], after[:, :, 2])
    changed = x.clone()
    changed[:, 3] = -changed[:, 3]
    after = mechanism._features(changed, 0, None).view(1, 2, 3, 8, 8)  # type: ignore[operator]
    others = [place for place in range(8) if place != 3]
    assert torch.equal(before[:, :, :, others], after[:, :, :, others])
    assert not torch.equal(before[:, :, 1:, 3], after[:, :, 1:, 3])


@pytest.mark.parametrize(
    ("pattern", "raster"), [("NS", None), ("NS", (3, 2, 4)), ("NC", None), ("NC", (3, 2, 4)), ("CS", None)]
)
def test_a_token_reads_the_values_of_its_frame_alone(pattern: str, raster: Any) -> None:
    mechanism, x = build(pattern, raster, window=8), tokens()
    v = torch.randn(1, 2, 24, 8, dtype=torch.float64, requires_grad=True)
    masks = {"query_mask": torch.ones(1, 24, dtype=torch.bool)} if pattern == "NC" else {}
    out = mechanism(v=v, key_mask=torch.ones(1, 24, dtype=torch.bool), x=x, y=tokens(), **masks)
    for i in (0, 7, 8, 12, 23):
        read = torch.autograd.grad(out[0, 0, i].sum(), v, retain_graph=True)[0][0, 0].abs().sum(1) > 0
        frame = torch.arange(24) // 8 == i // 8
        assert torch.equal(read, frame & (torch.arange(24) <= i) if pattern == "CS" else frame)


def test_without_rotation_equal_spikes_give_the_mean_of_the_frame() -> None:
    mechanism = build("NC", None, window=8)
    for linear in mechanism.maps:
        torch.nn.init.zeros_(linear.weight), torch.nn.init.zeros_(linear.bias)
    mechanism._rotated = lambda t, place: t  # type: ignore[method-assign, assignment]
    v, mask = torch.randn(1, 2, 24, 8, dtype=torch.float64), torch.ones(1, 24, dtype=torch.bool)
    out = mechanism(v=v, key_mask=mask, query_mask=mask, x=tokens(), y=tokens())
    mean = v.unflatten(2, (3, 8)).mean(3, keepdim=True).expand(-1, -1, -1, 8, -1).flatten(2, 3)
    torch.testing.assert_close(out, mean)


@pytest.mark.parametrize("params", [{"window": 0}, {"tau": 0.5}])
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(params: Any) -> None:
    with pytest.raises(ValueError, match=">= 1"):
        build("NS", **params)
