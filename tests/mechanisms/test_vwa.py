"""Varying windows: contexts that are wider than the windows that read them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.plugins import registry


def build(pattern: str = "NS", raster: tuple[int, int] | None = (8, 12), width: int = 16, **params: Any) -> Mechanism:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=96, width=width, raster=raster, source_raster=raster)
    torch.manual_seed(0)
    return registry.load("mechanism", "vwa")(slot, **params).double().eval()


def heads(t: Tensor) -> Tensor:
    return t.unflatten(-1, (2, 8)).movedim(-2, 1)


def test_a_context_inside_is_a_strided_window_of_the_convolved_image() -> None:
    mechanism = build(raster=(8, 12), windows=4, ratio=2)  # windows of 2 x 3, contexts of 4 x 6
    q, y = torch.randn(1, 2, 96, 8, dtype=torch.float64), torch.randn(1, 96, 16, dtype=torch.float64)
    image = y.mT.view(1, 16, 8, 12)
    conv = F.conv2d(F.pad(image, (0, 1, 0, 1)), mechanism.conv.weight, mechanism.conv.bias)
    conv = mechanism.norm(conv.movedim(1, -1)).relu().movedim(-1, 1)
    out = mechanism(q, y=y).view(1, 2, 8, 12, 8)
    # the window of rows 2, 3 and columns 3, 4, 5 reads rows 1 to 4 and columns 2 to 7 (an odd margin: one less before)
    context = conv[:, :, 1:5, 2:8].reshape(1, 4, 2, 2, 3, 2).permute(0, 2, 4, 3, 5, 1).reshape(1, 6, 16)
    k, v = heads(mechanism.of_keys(context)), heads(mechanism.of_values(context))
    own = q.view(1, 2, 8, 12, 8)[:, :, 2:4, 3:6].flatten(2, 3)
    expected = F.scaled_dot_product_attention(own, k, v).view(1, 2, 2, 3, 8)
    torch.testing.assert_close(out[:, :, 2:4, 3:6], expected)


@pytest.mark.parametrize(("windows", "ratio"), [(4, 2), (8, 4), (6, 2), (2, 2)])
def test_a_context_at_an_end_is_the_nearest_places_cyclically(windows: int, ratio: int) -> None:
    rows, columns = build(windows=windows, ratio=ratio)._indices(torch.device("cpu"))  # type: ignore[operator]
    for index, side in ((rows, 8), (columns, 12)):
        count, wide = index.shape
        assert count == -(-side // -(-side // windows)) and wide == ratio * -(-side // windows)
        for context, last in ((index[0], False), (index[-1], True)):
            inside = context[context < side]
            first = max(-(-side // (wide // ratio)) * (wide // ratio) - wide, 0) if last else 0
            assert inside.sort().values.tolist() == list(range(first, min(first + wide, side)))
            turn = int(inside.argmin())
            assert torch.equal(inside.roll(-turn), inside.sort().values)


@pytest.mark.parametrize("pattern", ["NS", "CC"])
@pytest.mark.parametrize("raster", [None, (8, 12)])
def test_of_ratio_1_it_is_attention_within_windows_of_keys_and_values_of_its_own(pattern: str, raster: Any) -> None:
    mechanism = build(pattern, raster, windows=4, ratio=1)
    q, y = torch.randn(2, 2, 96, 8, dtype=torch.float64), torch.randn(2, 96, 16, dtype=torch.float64)
    k, v = heads(mechanism.of_keys(y)), heads(mechanism.of_values(y))
    row, column = torch.arange(96) // 12, torch.arange(96) % 12
    window = torch.arange(96) // 24 if raster is None else row // 2 * 4 + column // 3
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=window[:, None] == window)
    torch.testing.assert_close(mechanism(q, y=y), expected)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(Unsupported, match="does not divide the width 20"):
        build(width=20, ratio=4)
    for params in ({"windows": 0}, {"ratio": 0}):
        with pytest.raises(ValueError, match="=0"):
            build(**params)
