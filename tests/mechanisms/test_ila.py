"""ILA: one frame is softmax attention, and a frame hears of its neighbours alone."""

from typing import Any

import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry


def build(frames: int, **params: Any) -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.NS, heads=2, dim=4, max_len=frames * 12, raster=(frames, 3, 4))
    return registry.load("mechanism", "ila")(slot, channels=8, **params).double().eval()


def drawn(frames: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    call = {name: torch.randn(1, 2, frames * 12, 4, dtype=torch.float64) for name in "qkv"}
    return call | {"x": torch.randn(1, frames * 12, 8, dtype=torch.float64)}


@torch.no_grad()
def test_one_frame_is_softmax_attention() -> None:
    call = drawn(1)
    expected = torch.nn.functional.scaled_dot_product_attention(call["q"], call["k"], call["v"])
    torch.testing.assert_close(build(1)(**call), expected)


@torch.no_grad()
def test_a_frame_reads_its_neighbours_and_no_other_frame() -> None:
    ila, call = build(5), drawn(5)
    out = ila(**call)
    for name in ("v", "k", "x"):
        changed = call[name].clone()
        (changed if name == "x" else changed.transpose(1, 2))[:, 24:36] += 1.0  # the middle frame
        difference = (ila(**{**call, name: changed}) - out).abs().amax((0, 1, 3)).view(5, 12).amax(1)
        assert (difference[1:4] > 1e-9).all(), name
        # the points of frames 1 and 3 look at frame 2, and their weights reach frames 0 and 4 through these pairs alone
        assert (difference[[0, 4]] < 1e-9).all(), name


@torch.no_grad()
def test_weights_are_one_at_the_centre_and_fall_to_the_ends() -> None:
    ila = build(2, offset=0.0)
    centre = torch.zeros(1, 2, dtype=torch.float64)
    expected = torch.tensor([0.0, 0.625, 1.0, 0.625, 0.0], dtype=torch.float64)
    torch.testing.assert_close(ila._along(centre, 5)[0, 0], expected)
