"""Local attention against local-attention (sliding windows) and natten (causal and dilated ones)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot
from cab.plugins import registry


def build(pattern: str, **params: Any) -> Mechanism:
    return registry.load("mechanism", "local")(Slot(Pattern.of(pattern), heads=2, dim=16, max_len=64), **params)


def drawn(n: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(n)
    return tuple(torch.randn(2, 2, n, 16, generator=generator, requires_grad=True) for _ in range(3))


@pytest.mark.parametrize("n", [64, 61])
@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_windows_equal_local_attention_forward_and_backward(pattern: str, n: int) -> None:
    peer = pytest.importorskip("local_attention")
    theirs = peer.LocalAttention(
        window_size=8,
        causal=pattern == "CS",
        look_backward=1,
        look_forward=0 if pattern == "CS" else 1,
        exact_windowsize=True,
        autopad=True,
        use_rotary_pos_emb=False,
    )
    q, k, v = drawn(n)
    # without a mask it sees the tokens that it pads with
    expected = theirs(q, k, v, mask=torch.ones(2, n, dtype=torch.bool))
    out = build(pattern, window=8)(q, k, v)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    gradients = torch.autograd.grad((out * weight).sum(), (q, k, v))
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weight).sum(), (q, k, v)))


@pytest.mark.filterwarnings("ignore")  # natten computes with flex_attention here, and says that it is slow
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("n", [64, 61])
def test_causal_dilated_windows_equal_natten(n: int, dilation: int) -> None:
    natten = pytest.importorskip("natten")
    with torch.no_grad():
        q, k, v = (t.detach() for t in drawn(n))  # natten's backward needs CUDA
        theirs = natten.na1d(*(t.transpose(1, 2) for t in (q, k, v)), kernel_size=7, dilation=dilation, is_causal=True)
        torch.testing.assert_close(build("CS", window=6, dilation=dilation)(q, k, v), theirs.transpose(1, 2))


@pytest.mark.filterwarnings("ignore")
def test_windows_equal_natten_where_it_does_not_shift_them_to_keep_them_full() -> None:
    natten = pytest.importorskip("natten")
    with torch.no_grad():
        q, k, v = (t.detach() for t in drawn(64))
        theirs = natten.na1d(*(t.transpose(1, 2) for t in (q, k, v)), kernel_size=7, dilation=2).transpose(1, 2)
        ours = build("NS", window=3, dilation=2)(q, k, v)
        torch.testing.assert_close(ours[:, :, 6:-6], theirs[:, :, 6:-6])
