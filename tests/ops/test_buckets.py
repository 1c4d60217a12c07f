"""Queries sorted into blocks of one bucket: positions are distinct, blocks are few, and the way back is exact."""

import pytest
import torch

from cab.ops.buckets import assign_blocks, gather_from_blocks, max_blocks, scatter_to_blocks


@pytest.mark.parametrize(("n", "buckets", "size"), [(1, 1, 1), (37, 8, 4), (37, 50, 4), (64, 3, 16), (5, 9, 1)])
@pytest.mark.parametrize("chosen", ["anywhere", "one", "in order"])
def test_queries_of_one_bucket_share_blocks_of_a_number_that_sizes_fix(
    n: int, buckets: int, size: int, chosen: str
) -> None:
    bucket = torch.randint(buckets, (2, 3, n), generator=torch.Generator().manual_seed(n))
    bucket = {"anywhere": bucket, "one": torch.full_like(bucket, buckets - 1), "in order": bucket.sort(2)[0]}[chosen]
    position, block_bucket = assign_blocks(bucket, buckets, size)
    blocks = max_blocks(n, buckets, size)
    assert block_bucket.shape == (2, 3, blocks) and position.min() >= 0 and position.max() < blocks * size
    assert all(len(set(row.tolist())) == n for row in position.flatten(0, 1))
    assert torch.equal(block_bucket.gather(2, position // size), bucket)
    t = torch.randn(2, 3, n, 4)
    assert torch.equal(gather_from_blocks(scatter_to_blocks(t, position, blocks, size), position), t)


def test_blocks_are_no_more_than_queries_can_fill() -> None:
    # of 37 queries in 8 buckets, 7 alone and 30 in one: 7 + ceil(30 / 4) blocks of 4
    assert max_blocks(37, 8, 4) == 15 and max_blocks(5, 9, 4) == 5
