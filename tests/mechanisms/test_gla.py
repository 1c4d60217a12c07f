"""Gated linear attention with ViG's locality: what its gate mixes, and where there is none."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Pattern, Slot, Unsupported
from cab.plugins import registry


def build(pattern: Pattern = Pattern.NS, **params: Any) -> Any:
    torch.manual_seed(0)
    raster = (4, 5) if pattern is Pattern.NS else None
    slot = Slot(pattern, heads=2, dim=6, max_len=20, raster=raster)
    return registry.load("mechanism", "gla")(slot, chunk=4, **params).double().eval()


def tokens() -> Tensor:
    return torch.randn(2, 20, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_gate_mixes_the_recurrence_and_the_convolved_tokens() -> None:
    local, y = build(locality=True), tokens()
    image = F.pad(y.mT.unflatten(2, (4, 5)), (1, 1, 1, 1))
    convolved = F.silu(F.conv2d(image, local.locality.conv.kernel, groups=12)).flatten(2).mT
    own = F.rms_norm(convolved.unflatten(2, (2, 6)), (6,), eps=1e-5).transpose(1, 2)
    local.locality.gate.bias.fill_(-1e4)
    torch.testing.assert_close(local(y=y), own)
    local.locality.gate.bias.fill_(1e4)
    q, k, v = (each(convolved).unflatten(2, (2, 6)).transpose(1, 2) for each in local.locality.projections)
    plain = build()
    plain.down.load_state_dict(local.down.state_dict())
    plain.up.load_state_dict(local.up.state_dict())
    plain.gate.weight.fill_(1.2784645427610738 / 12)  # a swish gate of 1 at x = 1
    torch.testing.assert_close(local(y=y), plain(q, k, v, x=torch.ones_like(y), y=convolved))


@pytest.mark.parametrize("pattern", [Pattern.CS, Pattern.NC, Pattern.CC])
def test_locality_is_of_ns_alone(pattern: Pattern) -> None:
    with pytest.raises(Unsupported, match="in NS alone"):
        build(pattern, locality=True)
