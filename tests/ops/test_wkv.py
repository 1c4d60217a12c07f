"""WKV against its sums, where exponents are large, and the token shift with masked tokens."""

import pytest
import torch
from torch import Tensor

from cab.ops.token_shift import token_shift
from cab.ops.wkv import bi_wkv, empty_wkv, wkv


def drawn(n: int, spread: float) -> list[Tensor]:
    torch.manual_seed(0)
    k, v = spread * torch.randn(2, 3, n, 4, dtype=torch.float64), torch.randn(2, 3, n, 4, dtype=torch.float64)
    rate = torch.rand(3, 1, 4, dtype=torch.float64).mul(3).exp().expand_as(k)
    return [k, v, rate, torch.randn(3, 1, 4, dtype=torch.float64)]


def definition(k: Tensor, v: Tensor, rate: Tensor, bonus: Tensor) -> Tensor:
    place = torch.arange(k.shape[2])
    distance = (place[:, None] - place - 1)[..., None]
    exponent = k.unsqueeze(2) - distance * rate[:, :, :1].unsqueeze(2)
    exponent = torch.where(distance < 0, (k + bonus).unsqueeze(2), exponent).masked_fill(distance < -1, -torch.inf)
    return (exponent.softmax(3) * v.unsqueeze(2)).sum(3)


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("spread", [1.0, 1000.0])
def test_it_is_the_average_under_fading_weights(chunk: int, spread: float) -> None:
    tensors = drawn(37, spread)
    torch.testing.assert_close(wkv(*tensors, empty_wkv(tensors[0]), chunk)[0], definition(*tensors))


@pytest.mark.parametrize("spread", [1.0, 1000.0])
@pytest.mark.parametrize("sign", [1.0, -0.01])
def test_on_both_sides_it_is_the_average_under_weights_that_fade_or_grow(spread: float, sign: float) -> None:
    k, v, rate, bonus = drawn(37, spread)
    rate, place = sign * rate, torch.arange(37)
    distance = (place[:, None] - place).abs().unsqueeze(2)
    exponent = torch.where(distance == 0, bonus[:, None], -(distance - 1) * rate[:, :, :1].unsqueeze(2))
    expected = ((exponent + k.unsqueeze(2)).softmax(3) * v.unsqueeze(2)).sum(3)
    torch.testing.assert_close(bi_wkv(k, v, rate, bonus, 8), expected)


def test_it_stays_exact_in_float32_far_from_the_first_token() -> None:
    tensors = drawn(4000, 3.0)
    exact = wkv(*tensors, empty_wkv(tensors[0]), 64)[0]
    narrow = [t.float() for t in tensors]
    out = wkv(*narrow, empty_wkv(narrow[0]), 64)[0]
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-4)


def test_the_token_before_is_the_unmasked_one() -> None:
    x, before = torch.arange(1.0, 7.0).view(1, 6, 1), torch.full((1, 1, 1), -1.0)
    mask = torch.tensor([[False, True, False, True, True, False]])
    shifted, last = token_shift(x, before, mask)
    assert shifted[mask].flatten().tolist() == [-1, 2, 4]
    assert last.item() == 5
    assert token_shift(x, before, torch.zeros_like(mask))[1].item() == -1
    assert token_shift(x, before, None)[0].flatten().tolist() == [-1, 1, 2, 3, 4, 5]
