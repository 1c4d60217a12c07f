"""Our `neighborhood` and natten 0.21.7, on one, two and three axes. natten's backward needs CUDA."""

import pytest
import torch

from cab import Mechanism, Pattern, Slot
from cab.plugins import registry

CASES = [((61,), 7, 1), ((64,), 6, 3), ((9, 14), 3, 2), ((12, 11), 5, 1), ((6, 7, 8), 3, 2)]


def build(pattern: str, raster: tuple[int, ...], window: int, dilation: int) -> Mechanism:
    n = torch.Size(raster).numel()
    slot = Slot(Pattern.of(pattern), heads=2, dim=16, max_len=n, raster=raster if len(raster) > 1 else None)
    return registry.load("mechanism", "neighborhood")(slot, window=window, dilation=dilation).double().eval()


@pytest.mark.filterwarnings("ignore")  # natten computes with flex_attention here, and says that it is slow
@pytest.mark.parametrize(("raster", "window", "dilation"), CASES)
@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_neighborhoods_equal_natten_s(pattern: str, raster: tuple[int, ...], window: int, dilation: int) -> None:
    natten = pytest.importorskip("natten")
    mechanism, axes = build(pattern, raster, window, dilation), len(raster)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, torch.Size(raster).numel(), 16, generator=generator) for _ in range(3))
    with torch.no_grad():
        compute = (natten.na1d, natten.na2d, natten.na3d)[axes - 1]
        theirs = compute(
            *(t.transpose(1, 2).unflatten(1, raster) for t in (q, k, v)),
            kernel_size=window,
            dilation=dilation,
            is_causal=pattern == "CS",
        )
        theirs = theirs.flatten(1, axes).transpose(1, 2)
        torch.testing.assert_close(mechanism(q, k, v), theirs)
        torch.testing.assert_close(mechanism.attend_natten(q, k, v), theirs)  # type: ignore[operator]
