"""HiLo: heads that see windows, and heads that see their means."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern, Slot
from cab.attention.layer import AttentionLayer
from cab.plugins import registry


def build(pattern: str, heads: int = 10, raster: tuple[int, int] | None = (6, 8), **params: Any) -> Mechanism:
    slot = Slot(Pattern.of(pattern), heads=heads, dim=4, max_len=48, raster=raster, source_raster=raster)
    torch.manual_seed(0)
    return registry.load("mechanism", "hilo")(slot, **params).double().eval()


@pytest.mark.parametrize(("share", "low"), [(0.0, 0), (0.25, 2), (0.9, 9), (1.0, 10)])
def test_the_share_of_heads_sees_means(share: float, low: int) -> None:
    assert build("NS", share=share).low == low


def test_a_layer_pools_tokens_as_the_paper_does() -> None:
    layer = AttentionLayer(build("NS", heads=2, window=2, share=1.0)).double()
    x = torch.randn(2, 48, 8, dtype=torch.float64)
    pooled = F.avg_pool2d(x.transpose(1, 2).unflatten(2, (6, 8)), 2).flatten(2).transpose(1, 2)

    def heads(projection: nn.Module, tokens: Tensor) -> Tensor:
        return projection(tokens).unflatten(-1, (2, 4)).transpose(1, 2)

    q, k, v = (heads(layer.projections[name], t) for name, t in (("q", x), ("k", pooled), ("v", pooled)))
    expected = layer.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("raster", [None, (6, 8)])
def test_a_causal_low_head_sees_the_windows_that_ended_before_the_query(raster: Any) -> None:
    mechanism = build("CS", heads=1, raster=raster, window=3, share=1.0)
    q, k, v = (torch.randn(1, 1, 48, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    out = mechanism(q, k, v)
    for i in (0, 2, 3, 17, 18, 47):
        read = torch.autograd.grad(out[0, 0, i].sum(), v, retain_graph=True)[0][0, 0, :, 0] != 0
        place = torch.arange(48)
        if raster is None:
            ended = place // 3 * 3 + 2 < i
        else:
            row, column = place // 8 // 3 * 3 + 2, (place % 8 // 3 * 3 + 2).clamp(max=7)
            ended = row * 8 + column < i
        assert torch.equal(read, ended)


def test_a_hyperparameter_that_is_valid_nowhere_is_refused() -> None:
    for params in ({"window": 0}, {"share": 1.5}, {"share": -0.1}):
        with pytest.raises(ValueError, match="number is needed, >= "):
            build("NS", **params)
