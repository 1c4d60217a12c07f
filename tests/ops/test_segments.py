"""Segments take each real token once, and their means and members agree."""

import pytest
import torch

from cab.ops.segments import segment_means, segment_members, segment_of


@pytest.mark.parametrize("segments", [1, 4, 7, 29, 40])
def test_segments_take_each_real_token_once_and_differ_by_one_token_at_most(segments: int) -> None:
    t = torch.randn(3, 2, 29, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 29, generator=torch.Generator().manual_seed(1)) < 0.5
    full = torch.ones_like(mask)
    for one in (mask, full):
        segment = segment_of(one, segments)
        means, not_empty = segment_means(t, one, segments)
        for b in range(3):
            sizes = torch.bincount(segment[b], minlength=segments + 1)
            assert sizes[-1] == (~one[b]).sum() and sizes[:-1].max() - sizes[:-1].min() <= 1
            assert not_empty is not None and torch.equal(not_empty[b], sizes[:-1] > 0)
            for s in not_empty[b].nonzero()[:, 0].tolist():
                torch.testing.assert_close(means[b, :, s], t[b][:, segment[b] == s].mean(1))
    torch.testing.assert_close(segment_means(t, None, segments)[0], segment_means(t, full, segments)[0])


@pytest.mark.parametrize("segments", [1, 4, 7, 29, 40])
def test_the_members_of_the_segments_are_those_that_are_averaged(segments: int) -> None:
    mask = torch.rand(3, 29, generator=torch.Generator().manual_seed(1)) < 0.5
    positions, inside = segment_members(29, mask, segments, mask.device)
    segment = segment_of(mask, segments)
    for b in range(3):
        for s in range(segments):
            assert positions[b, s][inside[b, s]].tolist() == (segment[b] == s).nonzero()[:, 0].tolist()
