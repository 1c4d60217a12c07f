"""Our `gaussian` against the authors' package, whose heads cut the axis that is normalised, forward and backward."""

import pytest
import torch

from cab import Mechanism, Pattern, Slot
from cab.plugins import registry

peer = pytest.importorskip("gaussian_adaptive_attention")
N, HEADS, SIZE = 23, 3, 5


def build(pattern: str, axis: str) -> Mechanism:
    slot = Slot(Pattern.of(pattern), heads=HEADS, dim=SIZE, max_len=N)
    mechanism = registry.load("mechanism", "gaussian")(slot, gaussians=3, axis=axis).double()
    # narrow densities underflow in theirs, and the clamp takes effect
    mechanism.width.data = 2 + torch.rand(HEADS, 3, dtype=torch.float64)
    mechanism.offset.data.normal_(std=0.3)
    return mechanism


def assert_same(ours: Mechanism, heads: list[torch.nn.Module], forward: object) -> None:
    for head, module in enumerate(heads):
        module.mean_offsets.data, module.c.data = ours.offset.data[head].clone(), ours.width.data[head].clone()
    v = torch.randn(2, HEADS, N, SIZE, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, N, dtype=torch.bool)
    out, expected = ours(None, None, v, key_mask=mask), forward(v)  # type: ignore[operator]
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    own = torch.autograd.grad((out * weight).sum(), [v, ours.offset, ours.width])
    parameters = [p for module in heads for p in (module.mean_offsets, module.c)]
    of_v, *rest = torch.autograd.grad((expected * weight).sum(), [v, *parameters])
    torch.testing.assert_close(own, (of_v, torch.stack(rest[::2]), torch.stack(rest[1::2])))


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_the_features_of_a_token_are_weighed_as_theirs(pattern: str) -> None:
    torch.manual_seed(0)
    theirs = peer.MultiHeadGaussianAdaptiveAttention(norm_axis=-1, num_heads=HEADS, num_gaussians=3).double()

    def forward(v: torch.Tensor) -> torch.Tensor:
        out = theirs(v.transpose(1, 2).flatten(2))
        return out.view(2, N, HEADS, SIZE).transpose(1, 2)

    assert_same(build(pattern, "features"), list(theirs.attention_heads), forward)


def test_the_tokens_of_a_channel_are_weighed_as_theirs() -> None:
    torch.manual_seed(0)
    heads = [peer.GaussianAdaptiveAttention(1, 1, 3, None).double() for _ in range(HEADS)]

    def forward(v: torch.Tensor) -> torch.Tensor:
        return torch.stack([module(v[:, head]) for head, module in enumerate(heads)], 1)

    assert_same(build("NS", "tokens"), heads, forward)
