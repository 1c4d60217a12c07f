"""PSNR and SSIM equal those of torchmetrics, image by image."""

import pytest
import torch

from cab.backbones.image_quality import psnr, ssim

peers = pytest.importorskip("torchmetrics.functional.image")


def test_they_equal_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(256, (3, 2, 33, 40), generator=generator).double()
    b = (a + 20 * torch.randn(a.shape, generator=generator, dtype=torch.float64)).clamp(0, 255).round()
    for i in range(3):
        one, other = a[i : i + 1], b[i : i + 1]
        assert psnr(one, other).item() == pytest.approx(
            peers.peak_signal_noise_ratio(one, other, data_range=255.0).item(), rel=1e-6
        )
        _, whole = peers.structural_similarity_index_measure(one, other, data_range=255.0, return_full_image=True)
        windows = whole[..., 5:-5, 5:-5]  # theirs mirrors the image at its borders; ours has whole windows alone
        assert ssim(one, other).item() == pytest.approx(windows.mean().item(), rel=1e-6)
