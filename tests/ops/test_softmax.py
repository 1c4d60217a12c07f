"""Softmax attention with tensors of several dtypes, as autocast hands them over."""

import torch
from torch import Tensor

from cab.ops.softmax import masked_attention

BF16 = torch.bfloat16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_takes_what_autocast_hands_over_in_several_types_and_gives_gradients_in_them() -> None:
    # on a GPU a length is float32 in autocast, and so are keys that are divided by theirs
    types = (BF16, torch.float32, BF16)
    q, k, v = (normal(1, 2, 3, 4, 8, seed=i).to(kind).requires_grad_() for i, kind in enumerate(types))
    whole = [t.detach().double().requires_grad_() for t in (q, k, v)]
    with torch.autocast("cpu", dtype=BF16):
        out, total = masked_attention(q, k, v, None, before=1)
    (out.float().square().sum() + total.sum()).backward()
    expected, expected_total = masked_attention(*whole, None, before=1)
    (expected.square().sum() + expected_total.sum()).backward()
    torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.02)
    for ours, theirs, kind in zip((q, k, v), whole, types, strict=True):
        assert ours.grad is not None and ours.grad.dtype is kind
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.05, atol=0.05)
