"""Blocks of tokens with the tokens beside them."""

import pytest
import torch

from cab.ops.block_window import overlapping_blocks


@pytest.mark.parametrize(("block", "before", "after"), [(4, 0, 0), (4, 3, 0), (4, 2, 2), (5, 5, 5), (40, 1, 1)])
def test_neighbours_are_the_tokens_beside_a_block(block: int, before: int, after: int) -> None:
    n = 30
    t = torch.randn(1, 2, n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blocks = overlapping_blocks(t, block, before, after)
    for c in range(blocks.shape[2]):
        for position in range(blocks.shape[3]):
            j = c * block - before + position
            expected = t[:, :, j] if 0 <= j < n else torch.zeros_like(t[:, :, 0])
            assert torch.equal(blocks[:, :, c, position], expected)
