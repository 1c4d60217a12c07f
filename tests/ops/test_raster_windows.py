"""Windows on rasters, in place and shifted."""

from itertools import product
from math import prod

import pytest
import torch

from cab import Pattern, Slot
from cab.ops.raster_windows import AlignedWindows, RasterWindows

CASES = [
    RasterWindows((7,), (3,), (0,)),
    RasterWindows((6, 8), (3, 4), (0, 0)),
    RasterWindows((7,), (3,), (1,)),
    RasterWindows((6, 7), (3, 2), (1, 1)),
    RasterWindows((4, 4), (4, 4), (2, 2)),
    RasterWindows((2, 4, 5), (2, 3, 2), (0, 1, 1)),
]


@pytest.mark.parametrize("windows", CASES, ids=str)
def test_joining_inverts_cutting(windows: RasterWindows) -> None:
    t = torch.randn(2, 3, prod(windows.raster), 5)
    blocks = windows.cut(t)
    assert blocks.shape == (2, 3, windows.count, prod(windows.window), 5)
    assert torch.equal(windows.join(blocks), t)


@pytest.mark.parametrize("windows", CASES, ids=str)
def test_tokens_of_one_window_and_region_lie_in_one_box_of_the_shifted_grid(windows: RasterWindows) -> None:
    def box(place: tuple[int, ...]) -> tuple[int, ...]:
        sizes = zip(place, windows.shift, windows.window, strict=True)
        return tuple((p - shift) // size for p, shift, size in sizes)

    boxes = [box(place) for place in product(*map(range, windows.raster))]
    number = torch.arange(1.0, 1 + len(boxes)).view(1, 1, -1, 1)  # 0 is what fills a window up
    tokens, regions = windows.cut(number)[0, 0, :, :, 0].long() - 1, windows.regions(number.device)
    together = set()
    for window, region in zip(tokens.tolist(), regions.tolist(), strict=True):
        together |= {
            (i, j)
            for (i, in_i), (j, in_j) in product(zip(window, region, strict=True), repeat=2)
            if min(i, j) >= 0 and in_i == in_j
        }
    pairs = product(range(len(boxes)), repeat=2)
    assert together == {(i, j) for i, j in pairs if boxes[i] == boxes[j]}


def test_a_missing_tail_is_filled_with_zeros() -> None:
    windows, t = RasterWindows((7,), (3,), (1,)), torch.randn(2, 3, 4, 5)
    whole = torch.cat([t, torch.zeros(2, 3, 3, 5)], 2)
    assert torch.equal(windows.cut(t), windows.cut(whole))


def test_windows_of_a_finer_raster_are_as_many() -> None:
    windows = RasterWindows((6, 7), (3, 2), (1, 1))
    assert windows.times((2, 3)) == RasterWindows((12, 21), (6, 6), (2, 3))
    assert windows.times((2, 3)).count == windows.count


@pytest.mark.parametrize(
    ("raster", "window", "before", "after"),
    [
        ((7,), (3,), (2,), (1,)),
        ((7,), (3,), (5,), (0,)),
        ((6, 8), (3, 4), (1, 0), (2, 6)),
        ((2, 4, 5), (2, 3, 2), (0, 1, 3), (1, 0, 1)),
    ],
)
def test_overlapping_windows_hold_the_places_around_them(
    raster: tuple[int, ...], window: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    windows, n = RasterWindows(raster, window, (0,) * len(raster)), prod(raster)
    number = torch.arange(1.0, 1 + n).view(1, 1, -1, 1)  # 0 is what lies beyond the raster
    held = windows.cut(number, before, after)[0, 0, :, :, 0].long()
    counts = [range(-(-side // size)) for side, size in zip(raster, window, strict=True)]
    for row, box in zip(held.tolist(), product(*counts), strict=True):
        sizes = zip(box, window, before, after, strict=True)
        ranges = [range(i * size - first, (i + 1) * size + last) for i, size, first, last in sizes]
        places = {place: i for i, place in enumerate(product(*map(range, raster)), 1)}
        assert row == [places.get(place, 0) for place in product(*ranges)]
    real = windows.cut_mask(torch.ones(1, n, dtype=torch.bool), number, before, after)
    assert torch.equal(real[0, 0], held > 0)


@pytest.mark.parametrize(
    ("raster", "source", "window"),
    [((13,), (7,), (3,)), ((6, 4), (9, 8), (4, 3)), ((8, 6), (4, 3), (2, 2)), ((2, 4, 5), (3, 2, 5), (2, 2, 2))],
)
def test_queries_stand_in_the_window_of_their_place_of_the_source(
    raster: tuple[int, ...], source: tuple[int, ...], window: tuple[int, ...]
) -> None:
    n, m, rasters = prod(raster), prod(source), {"raster": raster, "source_raster": source}
    slot = Slot(Pattern.NC, heads=1, dim=1, max_len=n, source_len=m, **{k: r for k, r in rasters.items() if len(r) > 1})
    windows = AlignedWindows(slot, window)
    number = torch.arange(1.0, 1 + n).view(1, 1, -1, 1)  # 0 is a free place
    cut = windows.cut_queries(number, m)
    assert torch.equal(windows.join_queries(cut, n, m), number)
    keys = windows.of_keys(m).cut(torch.arange(1.0, 1 + m).view(1, 1, -1, 1))
    assert cut.shape[2] == keys.shape[2]
    of_query, of_key = windows.numbers(n, m)
    pairs = 0
    for box, held in zip(cut[0, 0, :, :, 0].long().tolist(), keys[0, 0, :, :, 0].long().tolist(), strict=True):
        queries, own = [i - 1 for i in box if i], [j - 1 for j in held if j]
        assert len({*of_query[queries].tolist(), *of_key[own].tolist()}) == 1
        pairs += len(queries) * len(own)
    assert windows.pairs(n, m) == pairs
