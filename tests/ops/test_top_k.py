"""Selection of the largest scores of each row."""

import pytest
import torch
from torch import Tensor

from cab.ops.top_k import share_of, top_k, top_share


def tied_scores() -> Tensor:
    """Few distinct values, so that every row has ties at every rank; more entries than `torch.topk` keeps in order."""
    return torch.randint(0, 4, (3, 5, 200), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("count", [1, 7, 60, 200, 300])
def test_the_largest_scores_come_first_and_of_equal_ones_the_earlier(count: int) -> None:
    scores = tied_scores()
    positions, counts = top_k(scores, count)
    assert counts is None and positions.shape == (3, 5, min(count, 200))
    for row, selected in zip(scores.flatten(0, 1).tolist(), positions.flatten(0, 1).tolist(), strict=True):
        assert selected == sorted(range(200), key=lambda place: (-row[place], place))[:count]


@pytest.mark.parametrize("count", [1, 7, 60])
def test_a_hidden_score_is_never_selected_however_large(count: int) -> None:
    seen = torch.rand(3, 1, 200, generator=torch.Generator().manual_seed(1)) < 0.1
    seen[1] = False
    scores = tied_scores().masked_fill(~seen, 1e30)
    positions, counts = top_k(scores, count, seen)
    assert counts is not None
    for b in range(3):
        visible = seen[b, 0].nonzero()[:, 0].tolist()
        for row in range(5):
            expected = sorted(visible, key=lambda place: (-scores[b, row, place].item(), place))[:count]
            assert positions[b, row][counts[b, row]].tolist() == expected
            assert counts[b, row].tolist() == [True] * len(expected) + [False] * (count - len(expected))


def test_a_hidden_tail_selects_what_the_visible_scores_select_alone() -> None:
    scores = tied_scores()
    positions, counts = top_k(scores, 20, torch.arange(200) < 50)
    assert counts is not None and counts.all()
    assert torch.equal(positions, top_k(scores[..., :50], 20)[0])


def test_the_selection_has_no_gradient() -> None:
    scores = tied_scores().requires_grad_()
    positions, counts = top_k(scores, 3, scores > 0)
    assert counts is not None and not positions.requires_grad and not counts.requires_grad


@pytest.mark.parametrize(("share", "expected"), [(0.28, [7, 3, 0]), (0.25, [7, 3, 0]), (1.0, [25, 10, 0])])
def test_a_share_is_of_what_a_row_sees_rounded_up(share: float, expected: list[int]) -> None:
    scores = torch.randn(3, 25, generator=torch.Generator().manual_seed(0))
    seen = torch.arange(25) < torch.tensor([[25], [10], [0]])
    positions, counts = top_share(scores, share, seen)
    assert positions.shape == (3, expected[0]) == (3, share_of(25, share))
    assert counts.sum(1).tolist() == expected
    best = scores[1, :10].sort(descending=True, stable=True).indices[: expected[1]]
    assert positions[1][counts[1]].tolist() == best.tolist()
