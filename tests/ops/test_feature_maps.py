"""Feature maps keep the small values that 16 and 32 bits can hold."""

import torch

from cab.ops.feature_maps import elu_plus_one


def test_elu_plus_one_keeps_its_small_values() -> None:
    x = torch.tensor([-80.0, -30.0, -1.0, 0.0, 1.0, 1e6], requires_grad=True)
    expected = torch.where(x > 0, x + 1, x.double().exp().float()).detach()
    out = elu_plus_one(x)
    out.sum().backward()
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(x.grad, expected.clamp(max=1), rtol=1e-6, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(elu_plus_one(x), expected, rtol=1e-6, atol=0)
