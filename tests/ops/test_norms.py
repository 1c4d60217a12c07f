"""Norms of heads against their formulas."""

import torch

from cab.ops.norms import GatedNorm, rms_norm


def test_a_gated_norm_has_a_root_mean_square_of_one_before_its_gate() -> None:
    torch.manual_seed(0)
    norm = GatedNorm(width=5, heads=2, size=3, eps=0.0).double()
    out, x = torch.randn(4, 2, 7, 3).double(), torch.randn(4, 7, 5).double()
    with torch.no_grad():
        norm.scale.copy_(torch.tensor([1.0, 2.0, 3.0]))
    gate = (x @ norm.gate.weight.T).reshape(4, 7, 2, 3).transpose(1, 2)
    expected = out / out.square().mean(-1, keepdim=True).sqrt() * norm.scale * gate * gate.sigmoid()
    torch.testing.assert_close(norm(out, x), expected)


def test_a_norm_of_16_bits_is_rounded_once() -> None:
    t = (torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * 100).bfloat16()
    scale = torch.linspace(0.5, 2, 32)
    assert torch.equal(rms_norm(t, scale), rms_norm(t.float(), scale).bfloat16())
