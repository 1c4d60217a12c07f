"""Pooling of the real tokens of rows with different numbers of them."""

import pytest
import torch
from torch import nn

from cab.ops.ragged import adaptive_average_pool


@pytest.mark.parametrize("bins", [1, 4, 7, 29, 40])
def test_pooling_is_torch_s_adaptive_pooling_over_the_real_tokens(bins: int) -> None:
    t = torch.randn(3, 2, 29, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 29, generator=torch.Generator().manual_seed(1)) < 0.5
    pool = nn.AdaptiveAvgPool1d(bins)
    whole, some = adaptive_average_pool(t, None, bins), adaptive_average_pool(t, mask, bins)
    for b in range(3):
        torch.testing.assert_close(whole[b].mT, pool(t[b].mT))
        torch.testing.assert_close(some[b].mT, pool(t[b][:, mask[b]].mT))
