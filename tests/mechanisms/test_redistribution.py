"""Attention whose map is changed: what moves where, and what a row keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot, Unsupported
from cab.plugins import registry

HEADS, DIM, N, WIDTH = 2, 4, 40, 16
MODALITY = torch.tensor([[0] * 10 + [1] * 25 + [2] * 5])


def built(pattern: str = "NS", name: str = "redistribution", **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), HEADS, DIM, N, value_dim=N, width=WIDTH)
    return registry.load("mechanism", name)(slot, **params).double()


def weights(mechanism: Any, **inputs: Tensor) -> Tensor:
    """Return the map of attention weights, (heads, n, n)."""
    q, k = torch.randn(2, 1, HEADS, N, DIM, generator=torch.Generator().manual_seed(0)).double()
    return mechanism(q, k, torch.eye(N).double().expand(1, HEADS, N, N), **inputs)[0]  # type: ignore[no-any-return]


def tokens(sinks: list[int]) -> Tensor:
    y = torch.ones(1, N, WIDTH).double()
    y[:, sinks, 3] = 1000.0
    return y


def test_sinks_lose_their_share_to_the_other_image_tokens_which_keep_their_proportions() -> None:
    sinks, others = [0, 12, 20], [j for j in range(10, 35) if j not in (12, 20)]
    before = weights(built(name="softmax"))
    after = weights(built(kept=0.6, image_mass=0.65), y=tokens(sinks), source_modality=MODALITY)
    torch.testing.assert_close(after.sum(-1), torch.ones(HEADS, N).double())
    mass, lost = before[..., 10:35].sum(-1), before[..., [12, 20]].sum(-1)
    changed = (mass >= 0.65) & (lost <= 0.5 * mass)
    assert changed.any() and not changed.all()
    torch.testing.assert_close(after[~changed], before[~changed])
    torch.testing.assert_close(after[changed][:, sinks], 0.6 * before[changed][:, sinks])
    torch.testing.assert_close(after[changed][:, [5, 37]], before[changed][:, [5, 37]])
    ratio = after[changed][:, others] / before[changed][:, others]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


def test_fast_waves_are_amplified_and_the_rows_sums_stay() -> None:
    before, after = weights(built(name="softmax")), weights(built(form="spectrum", amplify=2.0, band=5))
    torch.testing.assert_close(after.sum(-1), torch.ones(HEADS, N).double())
    ratio = torch.fft.rfft(after) / torch.fft.rfft(before)  # of 0, ..., 20 periods
    torch.testing.assert_close(ratio.real, torch.tensor([1.0] * 15 + [2.0] * 6).double().expand_as(ratio))
    assert after.min() < 0


def test_a_filter_along_the_keys_is_refused_in_cs_and_what_is_no_share_everywhere() -> None:
    with pytest.raises(Unsupported, match="form=spectrum in CS"):
        built("CS", form="spectrum")
    for params in ({"form": "waves"}, {"sink_share": 1.0}, {"threshold": 0.0}, {"amplify": 0.0}, {"band": 0}):
        with pytest.raises(ValueError, match=next(iter(params))):
            built(**params)
