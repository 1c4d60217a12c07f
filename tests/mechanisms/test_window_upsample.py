"""Window attention upsample: windows of a coarse source, and its interpolation."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.plugins import registry


def build(name: str, raster: tuple[int, int], source: tuple[int, int], pattern: str = "NC", **params: Any) -> Mechanism:
    n, m = raster[0] * raster[1], source[0] * source[1]
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=n, source_len=m, raster=raster, source_raster=source)
    return registry.load("mechanism", name)(slot, window=3, **params).double().eval()


@pytest.mark.parametrize(
    ("raster", "source"), [((12, 18), (6, 9)), ((8, 9), (4, 3)), ((5, 7), (4, 6)), ((3, 4), (6, 8))]
)
@pytest.mark.parametrize("pattern", ["NC", "CC"])
def test_it_is_swin_s_windows_beside_pytorch_s_interpolation(pattern: str, raster: Any, source: Any) -> None:
    ours, swin = build("window_upsample", raster, source, pattern), build("swin", raster, source, pattern, bias="none")
    n, m = ours.slot.max_len, ours.slot.keys
    q, k, v = (torch.randn(2, 2, size, 8, dtype=torch.float64) for size in (n, m, m))
    image = v.transpose(2, 3).reshape(2, 16, *source)
    finer = F.interpolate(image, raster, mode="bilinear").view(2, 2, 8, n).transpose(2, 3)
    torch.testing.assert_close(ours(q, k, v), swin(q, k, v) + finer)


def test_the_interpolation_leaves_hidden_values_out() -> None:
    mechanism = build("window_upsample", (4, 4), (2, 2))
    q, v = torch.randn(1, 2, 16, 8, dtype=torch.float64), torch.randn(1, 2, 4, 8, dtype=torch.float64)
    real = torch.tensor([[True, False, False, False]])
    out = mechanism(q, v, v, key_mask=real).view(1, 2, 4, 4, 8)
    # the only key has all the weight of the softmax; it is interpolated where a query stands beside it
    torch.testing.assert_close(out[:, :, :3, :3], 2 * v[:, :, :1, None].expand(1, 2, 3, 3, 8))
    torch.testing.assert_close(out[:, :, 3], v[:, :, :1].expand(1, 2, 4, 8))


def test_a_target_that_is_its_own_source_is_refused() -> None:
    slot = Slot(Pattern.NS, heads=2, dim=8, max_len=9)
    with pytest.raises(Unsupported, match="as coarse as its source"):
        registry.load("mechanism", "window_upsample")(slot)
