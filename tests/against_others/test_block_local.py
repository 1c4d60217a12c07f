"""Our `block_local` and local-attention 1.11.2, which looks at no other block where it is told so."""

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry


@pytest.mark.parametrize("n", [64, 61])
@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_blocks_equal_local_attention_forward_and_backward(pattern: str, n: int) -> None:
    peer = pytest.importorskip("local_attention")
    theirs = peer.LocalAttention(
        window_size=8,
        causal=pattern == "CS",
        look_backward=0,
        look_forward=0,
        autopad=True,
        use_rotary_pos_emb=False,
    )
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, n, 16, requires_grad=True) for _ in range(3))
    # without a mask it sees the tokens that it pads with
    expected = theirs(q, k, v, mask=torch.ones(2, n, dtype=torch.bool))
    ours = registry.load("mechanism", "block_local")(Slot(Pattern.of(pattern), heads=2, dim=16, max_len=64), block=8)
    out = ours(q, k, v)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    gradients = torch.autograd.grad((out * weight).sum(), (q, k, v))
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weight).sum(), (q, k, v)))
