"""RALA against the authors' form of it, and against linear attention where all keys weigh the same."""

import pytest
import torch
import torch.nn.functional as F
from cab.mechanisms.linear import Linear
from cab.mechanisms.rala import Rala
from torch import Tensor

from cab import Pattern, Slot

RASTER = (5, 6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def call(n: int) -> dict[str, Tensor]:
    return {name: normal(2, 3, n, 8, seed=i) for i, name in enumerate("qkv")} | {"x": normal(2, n, 24, seed=3)}


def test_an_image_is_what_weights_that_sum_to_their_number_give_without_epsilon() -> None:
    rala = Rala(Slot(Pattern.NS, heads=3, dim=8, max_len=30, raster=RASTER, rotary=100.0)).double().eval()
    arguments = call(30)
    q, k, v = (arguments[name] for name in "qkv")
    q, k = F.elu(q) + 1, F.elu(k) + 1
    alpha = 30 * torch.softmax(q.mean(2, keepdim=True) @ k.mT / 8**0.5, -1).mT
    row, column = torch.arange(30) // 6, torch.arange(30) % 6

    def turned(t: Tensor) -> Tensor:
        # channels 0 and 1 turn with channels 2 and 3 by the row, 4 and 5 with 6 and 7 by the column
        angle = torch.stack([row, row / 10, column, column / 10], -1)
        numbers = torch.complex(t[..., [0, 1, 4, 5]], t[..., [2, 3, 6, 7]]) * torch.exp(1j * angle)
        return torch.stack([numbers.real, numbers.imag], -1).flatten(-2)

    state = turned(k * alpha).mT @ v / 30
    out = turned(q) @ state / (q @ (k * alpha).mean(2, keepdim=True).mT)
    image = v.transpose(2, 3).reshape(2, 24, *RASTER)
    near = F.conv2d(image, rala.conv.kernel, padding=2, groups=24).view(2, 3, 8, 30).transpose(2, 3)
    gate = rala.gate(arguments["x"]).view(2, 30, 3, 8).transpose(1, 2)
    torch.testing.assert_close(rala(**arguments), (out + near) * gate)


@pytest.mark.parametrize("pattern", ["CS", "CC"])
def test_a_query_of_zeros_and_a_gate_of_ones_leave_linear_attention(pattern: str) -> None:
    slot = Slot(Pattern.of(pattern), heads=3, dim=8, max_len=30)
    rala = Rala(slot, conv=0).double().eval()
    with torch.no_grad():
        rala.query.zero_(), rala.gate.weight.zero_(), rala.gate.bias.fill_(1.0)
    arguments = call(30)
    expected = Linear(slot).double().eval()(**{name: arguments[name] for name in "qkv"})
    torch.testing.assert_close(rala(**arguments), expected)


def test_scores_that_grow_without_bound_keep_early_rows() -> None:
    rala = Rala(Slot(Pattern.CS, heads=3, dim=8, max_len=30), conv=0).eval()
    arguments = {name: t.float() for name, t in call(30).items()}
    with torch.no_grad():
        rala.query.fill_(1.0)
        alone = rala(**{name: t[:, :, :9] if t.dim() == 4 else t[:, :9] for name, t in arguments.items()})
        arguments["k"][:, :, 9:] = 1000.0
        torch.testing.assert_close(rala(**arguments)[:, :, :9], alone)


@pytest.mark.parametrize("params", [{"conv": 4}, {"conv": -1}, {"chunk": 48}])
def test_what_no_slot_can_have_is_refused(params: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="=".join(f"{name}={value}" for name, value in params.items())):
        Rala(Slot(Pattern.NS, heads=3, dim=8, max_len=30), **params)
