"""Farthest-point sampling: against the definition, and on points that coincide."""

import numpy as np
import pytest

from cab.data.farthest_points import farthest_first


def test_each_point_is_the_farthest_from_those_before_it() -> None:
    points = np.random.default_rng(0).normal(size=(60, 3))
    order = farthest_first(points, 60)
    assert sorted(order) == list(range(60)) and order[0] == 0
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    for j in range(1, 60):
        nearest = distances[:, order[:j]].min(1)
        assert order[j] == nearest.argmax()


def test_a_beginning_of_the_order_is_the_order_of_fewer_points_and_of_its_own_points() -> None:
    points = np.random.default_rng(1).normal(size=(50, 3))
    order = farthest_first(points, 30)
    assert farthest_first(points, 12).tolist() == order[:12].tolist()
    assert farthest_first(points[order], 12).tolist() == list(range(12))


def test_points_in_one_place_are_each_taken_once() -> None:
    assert sorted(farthest_first(np.zeros((4, 3)), 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 5])
def test_more_points_than_there_are_and_none_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count={count}: from 1 to the 4 points"):
        farthest_first(np.zeros((4, 3)), count)
