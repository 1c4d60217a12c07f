"""SegMiF's context: a softmax over the channels of the keys for each channel of the values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry


def build(pattern: str) -> Any:
    slot = Slot(Pattern.of(pattern), heads=2, dim=6, max_len=32, value_dim=5)
    return registry.load("mechanism", "segmif")(slot).double().eval()


def drawn(n: int, size: int, seed: int) -> Tensor:
    return torch.randn(2, 2, n, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_the_columns_of_a_context_sum_to_one_and_the_output_is_linear_in_q(pattern: str) -> None:
    segmif, q, k, v = build(pattern), drawn(32, 6, 0), drawn(32, 6, 1), drawn(32, 5, 2)
    torch.testing.assert_close(segmif(torch.ones_like(q), k, v), torch.ones(2, 2, 32, 5, dtype=torch.float64))
    torch.testing.assert_close(segmif(3 * q, k, v), 3 * segmif(q, k, v))


@torch.no_grad()
def test_the_last_row_of_cs_reads_what_a_source_gives() -> None:
    q, k, v = drawn(32, 6, 0), drawn(32, 6, 1), drawn(32, 5, 2)
    torch.testing.assert_close(build("CS")(q, k, v)[:, :, -1], build("NC")(q, k, v)[:, :, -1])
