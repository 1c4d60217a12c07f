"""Neighborhood attention: which keys are near a query."""

import warnings
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.attention.reference import by_reference
from cab.ops import kernels
from cab.plugins import registry

SELF = [((13,), 3, 1), ((13,), 4, 3), ((9, 14), 3, 2), ((9, 14), 5, 1), ((4, 6, 7), 3, 1)]


def build(pattern: str, raster: tuple[int, ...], source: tuple[int, ...] | None = None, **params: Any) -> Mechanism:
    rasters = {name: sides for name, sides in (("raster", raster), ("source_raster", source or raster)) if sides[1:]}
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=prod(raster), source_len=prod(source or raster), **rasters)
    torch.manual_seed(0)
    return registry.load("mechanism", "neighborhood")(slot, **params).double().eval()


def draw(mechanism: Mechanism, batch: int = 2) -> list[Tensor]:
    n, m = mechanism.slot.max_len, mechanism.slot.keys
    return [torch.randn(batch, 2, size, 8, dtype=torch.float64) for size in (n, m, m)]


def reached(mechanism: Mechanism) -> Tensor:
    """Return which keys each query weighs: (n, m)."""
    q, k, _ = draw(mechanism, 1)
    m = mechanism.slot.keys
    v = torch.eye(m, dtype=torch.float64).expand(1, 2, m, m)
    columns = [mechanism(q, k, torch.nn.functional.pad(part, (0, 8 - part.shape[3]))) for part in v.split(8, 3)]
    return torch.cat(columns, 3)[0, 0, :, :m] != 0


def keys_of(place: int, side: int, window: int, dilation: int, causal: bool) -> set[int]:
    same = list(range(place % dilation, side, dilation))
    if causal:
        return set([key for key in same if key <= place][-window:])
    first = max(0, min(same.index(place) - window // 2, len(same) - window))
    return set(same[first : first + window])


@pytest.mark.parametrize(("raster", "window", "dilation"), SELF)
@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_a_query_sees_the_window_nearest_keys_of_each_axis(
    pattern: str, raster: tuple[int, ...], window: int, dilation: int
) -> None:
    mechanism = build(pattern, raster, window=window, dilation=dilation)
    seen = reached(mechanism)
    for i, query in enumerate(product(*map(range, raster))):
        axes = zip(query, raster, strict=True)
        near = [keys_of(place, side, window, dilation, pattern == "CS") for place, side in axes]
        keys = [all(p in s for p, s in zip(key, near, strict=True)) for key in product(*map(range, raster))]
        assert torch.equal(seen[i], torch.tensor(keys))
    n = prod(raster)
    assert mechanism.flops_needed(n, n) == 2 * 2 * 16 * int(seen.sum()) <= mechanism.flops(n, n)


@pytest.mark.parametrize(("raster", "source"), [((13,), (7,)), ((6, 4), (9, 8)), ((2, 4, 5), (3, 2, 5))])
@pytest.mark.parametrize("pattern", ["NC", "CC"])
def test_a_query_sees_the_keys_around_its_place_of_the_source(
    pattern: str, raster: tuple[int, ...], source: tuple[int, ...]
) -> None:
    mechanism = build(pattern, raster, source, window=3, dilation=2)
    seen = reached(mechanism)
    for i, query in enumerate(product(*map(range, raster))):
        axes = zip(query, raster, source, strict=True)
        near = [keys_of(place * m // n, m, 3, 2, False) for place, n, m in axes]
        keys = [all(p in s for p, s in zip(key, near, strict=True)) for key in product(*map(range, source))]
        assert torch.equal(seen[i], torch.tensor(keys))
    n, m = mechanism.slot.max_len, mechanism.slot.keys
    assert mechanism.flops_needed(n, m) == 2 * 2 * 16 * int(seen.sum()) <= mechanism.flops(n, m)


@pytest.mark.parametrize("raster", [(301,), (20, 33), (9, 8, 13)])
@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_many_tiles_equal_the_definition(pattern: str, raster: tuple[int, ...]) -> None:
    for params in ({"window": 3}, {"window": 4, "dilation": 2, "bias": True}):
        mechanism = build(pattern, raster, **params)
        arguments = draw(mechanism, 1)
        torch.testing.assert_close(mechanism(*arguments), by_reference(mechanism, *arguments))


@pytest.mark.parametrize(("raster", "window", "dilation"), SELF)
@pytest.mark.parametrize("pattern", ["NS", "CS", "NC"])
def test_flex_equals_eager_forward(
    pattern: str, raster: Any, window: int, dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # unfused, since the CPU has no backward of it and compiling takes long; the masks are what is ours
    unfused = flex_attention.flex_attention, flex_attention.create_block_mask
    monkeypatch.setattr(kernels, "flex", lambda kind: unfused)
    mechanism = build(pattern, raster, window=window, dilation=dilation)
    q, k, v = draw(mechanism)
    mask = torch.ones(2, k.shape[2], dtype=torch.bool)
    mask[1, 5:] = False
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key_mask in (None, mask):
            expected = mechanism.attend(q, k, v, key_mask)
            actual = mechanism.attend_flex(q, k, v, key_mask)  # type: ignore[operator]
            real = slice(None) if key_mask is None or pattern == "NC" else key_mask[1].nonzero()[:, 0]
            torch.testing.assert_close(actual[1, :, real], expected[1, :, real])


def test_what_a_backend_does_not_compute_is_unsupported_and_says_why() -> None:
    if not torch.cuda.is_available():
        for backend in ("flex", "natten"):
            with pytest.raises(Unsupported, match="no backward on the CPU"):
                build("NS", (9,)).use(backend)
    with pytest.raises(Unsupported, match="one raster"):
        build("NC", (9,)).use("natten")
    with pytest.raises(Unsupported, match="learned bias"):
        build("NS", (9,), bias=True).use("sdpa")


def test_a_hyperparameter_that_is_valid_nowhere_is_refused() -> None:
    for params in ({"window": 0}, {"dilation": 0}):
        with pytest.raises(ValueError, match=">= 1"):
            build("NS", (9,), **params)
