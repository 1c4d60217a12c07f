"""Places of tokens on rasters, and of queries among the keys of another one."""

import pytest
import torch

from cab.ops.raster_places import aligned_positions, centres, places

RASTERS = [((6, 7), (5, 7)), ((5,), (12,)), ((12,), (5,)), ((4, 6), (2, 3)), ((2, 4, 5), (3, 2, 5)), ((3, 3), (3, 3))]


def test_places_are_in_row_major_order() -> None:
    assert places((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert places((3,)).tolist() == [[0], [1], [2]]


def test_a_query_stands_at_the_key_at_its_share_of_the_way() -> None:
    assert centres((6,), (3,))[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert centres((3,), (6,))[:, 0].tolist() == [0, 2, 4]
    assert centres((5,), (3,))[:, 0].tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(("raster", "source"), RASTERS)
def test_queries_are_laid_out_beside_the_keys_at_which_they_stand(
    raster: tuple[int, ...], source: tuple[int, ...]
) -> None:
    position, rates = aligned_positions(raster, source)
    assert len(set(position.tolist())) == len(position)
    laid_out = places(tuple(side * rate for side, rate in zip(source, rates, strict=True)))[position]
    assert torch.equal(laid_out // torch.tensor(rates), centres(raster, source))


def test_the_layout_on_an_equal_raster_is_the_raster_itself() -> None:
    position, rates = aligned_positions((4, 5), (4, 5))
    assert rates == (1, 1) and position.tolist() == list(range(20))
