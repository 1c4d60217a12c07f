"""Distances between clouds: hand-computed cases, the definition, chunks, gradients."""

import pytest
import torch

from cab.backbones import point_distances
from cab.backbones.point_distances import chamfer_l1, cloud_scores, nearest_squares, neighbours


def clouds(seed: int = 0, n: int = 7, m: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(3, length, 3, generator=generator) for length in (n, m))
    return a, b


def test_scores_of_clouds_that_are_computed_by_hand() -> None:
    # one axis: a at 0 and 4, b at 1 and 4 and 9. a to b: 1, 0. b to a: 1, 0, 5
    a = torch.tensor([[[0.0, 0, 0], [4, 0, 0]]])
    b = torch.tensor([[[1.0, 0, 0], [4, 0, 0], [9, 0, 0]]])
    scores = cloud_scores(a, b, threshold=1.0)
    assert scores["cd_l1"].tolist() == pytest.approx([1000 * (1 / 2 + 6 / 3) / 2])
    assert scores["cd_l2"].tolist() == pytest.approx([1000 * (1 / 2 + 26 / 3)])
    precision, recall = 1 / 2, 1 / 3  # 1 is not below 1
    assert scores["f_score"].tolist() == pytest.approx([2 * precision * recall / (precision + recall)])
    assert cloud_scores(a, b, threshold=1.01)["f_score"].tolist() == pytest.approx([2 * 1 * (2 / 3) / (1 + 2 / 3)])
    assert chamfer_l1(a, b).tolist() == pytest.approx([(1 / 2 + 6 / 3) / 2])


def test_equal_clouds_have_no_distance_and_far_ones_no_f_score() -> None:
    a, _ = clouds()
    same = cloud_scores(a, a.flip(1), threshold=0.01)
    assert same["cd_l1"].tolist() == same["cd_l2"].tolist() == [0.0] * 3 and same["f_score"].tolist() == [1.0] * 3
    assert cloud_scores(a, a + 100, threshold=0.01)["f_score"].tolist() == [0.0] * 3


@pytest.mark.parametrize("chunk", [1, 40, 2**24])
def test_nearest_points_are_those_of_the_definition_whatever_is_held_at_once(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point_distances, "CHUNK", chunk)
    a, b = clouds()
    squares = (a[:, :, None] - b[:, None]).square().sum(3)
    to_b, to_a = nearest_squares(a, b)
    torch.testing.assert_close(to_b, squares.amin(2))
    torch.testing.assert_close(to_a, squares.amin(1))


def test_gradients_are_those_of_the_definition_and_finite_where_points_coincide() -> None:
    a, b = clouds()
    a = torch.cat([a, b[:, :2]], 1).requires_grad_()
    gradient = torch.autograd.grad(chamfer_l1(a, b).sum(), a)[0]
    assert gradient.isfinite().all()
    apart = a.detach()[:, :7].clone().requires_grad_()
    distances = (apart[:, :, None] - b[:, None]).square().sum(3).sqrt()
    expected = torch.autograd.grad(((distances.amin(2).mean(1) + distances.amin(1).mean(1)) / 2).sum(), apart)[0]
    torch.testing.assert_close(torch.autograd.grad(chamfer_l1(apart, b).sum(), apart)[0], expected)


def test_neighbours_are_the_nearest_and_at_most_all() -> None:
    a, b = clouds()
    index = neighbours(a, b, 4)
    distances = torch.cdist(a, b)
    assert torch.equal(index.sort(2).values, distances.argsort(2)[:, :, :4].sort(2).values)
    assert neighbours(a, b[:, :3], 4).shape == (3, 7, 3)
