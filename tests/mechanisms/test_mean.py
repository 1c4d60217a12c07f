"""The baseline `mean`: softmax attention without scores."""

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_it_is_softmax_attention_whose_scores_are_all_zero(pattern: str) -> None:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=40, kv_heads=1)
    ours, softmax = (registry.load("mechanism", name)(slot) for name in ("mean", "softmax"))
    m = 30 if slot.pattern.cross else 40
    v, zero = torch.randn(3, 1, m, 8), torch.zeros(3, 2, 40, 8)
    mask = torch.ones(3, 40, dtype=torch.bool) if slot.pattern.cross else None
    expected = softmax(zero, torch.zeros_like(v), v)
    torch.testing.assert_close(ours(v=v, query_mask=mask), expected, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_the_running_mean_does_not_stop_counting() -> None:
    mean = registry.load("mechanism", "mean")(Slot(Pattern.CS, heads=1, dim=4, max_len=4096))
    assert (mean(v=torch.ones(1, 1, 4096, 4, dtype=torch.bfloat16)) == 1).all()
