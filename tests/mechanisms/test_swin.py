"""Swin attention: which tokens meet in a window, and in the shifted windows of odd layers."""

from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.attention.reference import by_reference
from cab.plugins import registry

PATTERNS = list(Pattern.__members__)
RASTERS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((6, 7), (5, 7)), ((4, 4), (9, 8)), ((2, 4, 5), (3, 2, 5))]


def build(
    pattern: str, raster: Any = None, source: Any = None, layer: int = 1, n: int = 20, **params: Any
) -> Mechanism:
    slot = Slot(
        Pattern.of(pattern),
        heads=2,
        dim=8,
        max_len=prod(raster) if raster else n,
        source_len=prod(source) if source and Pattern.of(pattern).cross else None,
        raster=raster,
        source_raster=source if Pattern.of(pattern).cross else None,
        layer=layer,
        layers=2,
    )
    torch.manual_seed(0)
    return registry.load("mechanism", "swin")(slot, **params).double().eval()


def draw(mechanism: Mechanism) -> list[Tensor]:
    n, m = mechanism.slot.max_len, mechanism.slot.keys
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 2, size, 8, dtype=torch.float64, generator=generator) for size in (n, m, m)]


def reached(mechanism: Mechanism) -> Tensor:
    """Return which keys each query weighs: (n, m)."""
    q, k, _ = draw(mechanism)
    m = mechanism.slot.keys
    v = torch.eye(m, dtype=torch.float64).expand(2, 2, m, m)
    columns = [mechanism(q, k, torch.nn.functional.pad(part, (0, 8 - part.shape[3]))) for part in v.split(8, 3)]
    return torch.cat(columns, 3)[0, 0, :, :m] != 0


@pytest.mark.parametrize("params", [{"window": 3}, {"window": 4, "cosine": True, "bias": "continuous"}], ids=str)
@pytest.mark.parametrize(("raster", "source"), RASTERS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_shifted_windows_on_rasters_equal_the_definition_forward_and_backward(
    pattern: str, raster: Any, source: Any, params: Any
) -> None:
    mechanism = build(pattern, raster, source, **params)
    arguments = [t.requires_grad_() for t in draw(mechanism)]
    holes = torch.rand(2, mechanism.slot.keys, generator=torch.Generator().manual_seed(2)) < 0.7
    parameters = list(mechanism.parameters())
    for key_mask in (None, holes):
        out, expected = mechanism(*arguments, key_mask=key_mask), by_reference(mechanism, *arguments, key_mask=key_mask)
        if key_mask is not None and not mechanism.slot.pattern.cross:
            expected = expected * key_mask[:, None, :, None]
        torch.testing.assert_close(out, expected)
        weight = torch.randn_like(out)
        actual, true = (torch.autograd.grad((t * weight).sum(), arguments + parameters) for t in (out, expected))
        torch.testing.assert_close(actual, true)


@pytest.mark.parametrize("raster", [(9,), (6, 9), (4, 6, 6)])
@pytest.mark.parametrize("layer", [0, 1])
def test_tokens_meet_where_no_border_of_windows_is_between_them(raster: tuple[int, ...], layer: int) -> None:
    mechanism = build("NS", raster if len(raster) > 1 else None, layer=layer, n=9, window=4)
    shift, tokens = 2 * layer, list(product(*map(range, raster)))

    def number(token: tuple[int, ...]) -> list[int]:  # a window as long as an axis is not shifted there
        return [(place - shift * (side > 4)) // 4 for place, side in zip(token, raster, strict=True)]

    expected = torch.tensor([[number(i) == number(j) for j in tokens] for i in tokens])
    assert torch.equal(reached(mechanism), expected)


def test_the_ends_of_an_axis_share_a_window_and_do_not_see_each_other() -> None:
    mechanism = build("NS", (8, 8), window=4, bias="none")
    seen = reached(mechanism).view(8, 8, 8, 8)
    assert not seen[0, 0, 6:].any() and not seen[0, 0, :, 6:].any() and seen[0, 0, :2, :2].all()
    assert int(seen.sum()) == int(mechanism.flops_needed(64, 64)) // (2 * 2 * 16)


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_two_layers_reach_beyond_a_window(pattern: str) -> None:
    once, twice = (build(pattern, layer=layer, window=4) for layer in (0, 1))
    seen = reached(twice).int() @ reached(once).int() > 0
    assert seen[5, 0] and not reached(once)[5, 0]
    assert bool(seen[2, 7]) == (pattern == "NS")


@pytest.mark.parametrize("pattern", ["NC", "CC"])
def test_a_query_sees_the_window_of_its_place_in_the_source(pattern: str) -> None:
    mechanism = build(pattern, (4, 4), (8, 2), layer=0, window=2)
    seen = reached(mechanism).view(4, 4, 8, 2)
    for row, column, of_row, of_column in product(range(4), range(4), range(8), range(2)):
        assert bool(seen[row, column, of_row, of_column]) == (row == of_row // 2)


@pytest.mark.parametrize(("raster", "source"), RASTERS)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_needed_is_the_pairs_that_are_seen(pattern: str, layer: int, raster: Any, source: Any) -> None:
    mechanism = build(pattern, raster, source, layer, window=3)
    n, m = mechanism.slot.max_len, mechanism.slot.keys
    assert mechanism.flops_needed(n, m) == 2 * 2 * 16 * int(reached(mechanism).sum()) <= mechanism.flops(n, m)


def test_a_hyperparameter_that_is_valid_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="window=0"):
        build("NS", window=0)
    with pytest.raises(ValueError, match="bias='learned'"):
        build("NS", bias="learned")


def test_squeeze_gates_the_channels_of_all_heads_by_their_mean_over_real_rows() -> None:
    plain, squeezed = build("NS", (6, 7), window=3), build("NS", (6, 7), window=3, squeeze=4)
    squeezed.bias.load_state_dict(plain.bias.state_dict())
    arguments = draw(plain)
    real = torch.rand(2, 42, generator=torch.Generator().manual_seed(2)) < 0.7
    for key_mask, counts in ((None, torch.ones(2, 42)), (real, real)):
        out = plain(*arguments, key_mask=key_mask)
        mean = (out * counts[:, None, :, None]).sum(2) / counts.sum(1)[:, None, None]
        gate = squeezed.gate(mean.flatten(1)).view(2, 2, 1, 8)
        assert [layer.weight.shape for layer in squeezed.gate if hasattr(layer, "weight")] == [(4, 16), (16, 4)]
        torch.testing.assert_close(squeezed(*arguments, key_mask=key_mask), out * gate)


def test_without_squeeze_a_head_depends_on_itself_alone() -> None:
    mechanism = build("NS", (6, 7), window=3)
    arguments = draw(mechanism)
    changed = [torch.stack([t[:, 0], -t[:, 1]], 1) for t in arguments]
    assert torch.equal(mechanism(*arguments)[:, 0], mechanism(*changed)[:, 0])


@pytest.mark.parametrize("pattern", ["CS", "CC"])
def test_squeeze_is_refused_where_rows_may_not_see_later_ones(pattern: str) -> None:
    with pytest.raises(Unsupported, match="later ones too"):
        build(pattern, squeeze=16)
