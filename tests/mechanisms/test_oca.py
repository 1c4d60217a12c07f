"""Overlapping cross-attention: windows of queries, larger windows of keys."""

from itertools import product
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.plugins import registry


def build(pattern: str, raster: tuple[int, ...], source: tuple[int, ...] | None = None, **params: Any) -> Mechanism:
    rasters = {name: sides for name, sides in (("raster", raster), ("source_raster", source or raster)) if sides[1:]}
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=prod(raster), source_len=prod(source or raster), **rasters)
    torch.manual_seed(0)
    return registry.load("mechanism", "oca")(slot, **params).double().eval()


def draw(mechanism: Mechanism) -> list[Tensor]:
    n, m = mechanism.slot.max_len, mechanism.slot.keys
    return [torch.randn(1, 2, size, 8, dtype=torch.float64) for size in (n, m, m)]


def reached(mechanism: Mechanism) -> Tensor:
    """Return which keys each query weighs: (n, m)."""
    q, k, _ = draw(mechanism)
    m = mechanism.slot.keys
    v = torch.eye(m, dtype=torch.float64).expand(1, 2, m, m)
    columns = [mechanism(q, k, F.pad(part, (0, 8 - part.shape[3]))) for part in v.split(8, 3)]
    return torch.cat(columns, 3)[0, 0, :, :m] != 0


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
@pytest.mark.parametrize(
    ("raster", "source"), [((14,), (14,)), ((9, 8), (9, 8)), ((3, 5, 4), (3, 5, 4)), ((6, 10), (9, 5))]
)
@pytest.mark.parametrize("pattern", list(Pattern.__members__))
def test_a_query_sees_its_window_and_half_the_overlap_on_either_side(
    pattern: str, raster: tuple[int, ...], source: tuple[int, ...], overlap: float
) -> None:
    source = raster if pattern in ("NS", "CS") else source
    mechanism = build(pattern, raster, source, window=4, overlap=overlap)
    seen, sizes = reached(mechanism), [min(4, side) for side in source]
    for (i, query), (j, key) in product(
        enumerate(product(*map(range, raster))), enumerate(product(*map(range, source)))
    ):
        near = True
        for place, at, n, m, size in zip(query, key, raster, source, sizes, strict=True):
            start, more = place * m // n // size * size, int(overlap * size)
            near &= start - more // 2 <= at < start + size + more - more // 2
        assert bool(seen[i, j]) == (near and (j <= i or pattern != "CS"))
    n, m = len(seen), seen.shape[1]
    assert mechanism.flops_needed(n, m) == 2 * 2 * 16 * int(seen.sum()) <= mechanism.flops(n, m)


def test_an_image_is_read_as_by_pytorch_s_unfold() -> None:
    mechanism = build("NS", (8, 12), window=4)
    q, k, v = draw(mechanism)

    def windows(t: Tensor, size: int) -> Tensor:  # (heads, windows, places, channels)
        image = F.unfold(t[0].transpose(1, 2).reshape(2, 8, 8, 12), size, stride=4, padding=(size - 4) // 2)
        return image.view(2, 8, size**2, -1).permute(0, 3, 2, 1)

    real = windows(torch.ones_like(k), 6)[..., 0] > 0
    index = mechanism.bias.index
    scores = windows(q, 4) @ windows(k, 6).mT / 8**0.5 + mechanism.bias.table[:, index].unsqueeze(1)
    out = scores.masked_fill(~real.unsqueeze(2), -torch.inf).softmax(-1) @ windows(v, 6)
    assert index.unique().numel() == (4 + 6 - 1) ** 2 == mechanism.bias.table.shape[1]
    expected = F.fold(out.permute(0, 3, 2, 1).reshape(2, 8 * 16, -1), (8, 12), 4, stride=4)
    torch.testing.assert_close(mechanism(q, k, v)[0], expected.flatten(2).transpose(1, 2))


def test_what_is_not_computed_is_refused() -> None:
    with pytest.raises(Unsupported, match="learned bias"):
        build("NS", (9,)).use("sdpa")
    for params in ({"window": 0}, {"overlap": -0.5}):
        with pytest.raises(ValueError, match="number is needed, >= "):
            build("NS", (9,), **params)
