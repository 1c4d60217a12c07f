"""From coarse to fine: whose fine tokens are read."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry

HEADS, DIM, N, WIDTH = 2, 4, 7, 12


def built(pattern: str = "NS", **params: Any) -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), HEADS, DIM, N, width=WIDTH)
    return registry.load("mechanism", "coarse_to_fine")(slot, **params).double()


def call() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    heads = {name: torch.randn(1, HEADS, N, DIM, generator=generator).double() for name in "qkv"}
    return heads | {"fine": torch.randn(1, N, WIDTH, generator=generator).double()}


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_the_fine_tokens_of_the_coarse_one_that_all_look_at_are_read(pattern: str) -> None:
    mechanism, inputs = built(pattern), call()
    inputs["q"][:] = 1.0
    inputs["k"][:] = 0.0
    inputs["k"][:, :, 3] = 2.0
    for j in range(N):
        changed = inputs["fine"].index_fill(1, torch.tensor([j]), 5.0)
        moved = (mechanism(**inputs | {"fine": changed}) - mechanism(**inputs)).abs().amax((0, 1, 3)) > 1e-9
        # in CS the first three queries see keys of equal weight alone, and of those none is read finely
        assert moved.tolist() == [j == 3 and (pattern == "NS" or i >= 3) for i in range(N)]


@torch.no_grad()
def test_below_a_threshold_of_zero_all_fine_tokens_are_read() -> None:
    mechanism, inputs = built(threshold=-1), call()
    parts = inputs["fine"].view(1, N * 4, WIDTH // 4)
    fine_k, fine_v = (
        f(parts).view(1, N * 4, HEADS, DIM).transpose(1, 2) for f in (mechanism.of_key, mechanism.of_value)
    )
    softmax: Any = registry.load("mechanism", "softmax")(Slot(Pattern.NC, HEADS, DIM, N, source_len=5 * N))
    keys, values = torch.cat([inputs["k"], fine_k], 2), torch.cat([inputs["v"], fine_v], 2)
    torch.testing.assert_close(mechanism(**inputs), softmax(inputs["q"], keys, values))


@pytest.mark.parametrize("tokens", [0, 5])
def test_fine_tokens_that_do_not_divide_the_width_are_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"tokens={tokens}"):
        built(tokens=tokens)
