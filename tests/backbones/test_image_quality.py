"""PSNR and SSIM: hand-computed cases, and SSIM against the definition window by window."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cab.backbones.image_quality import C1, C2, psnr, ssim


def images(seed: int, shape: tuple[int, ...] = (3, 2, 17, 14)) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)).float()


def test_psnr_of_errors_that_are_known() -> None:
    black = torch.zeros(3, 1, 2, 2)
    grey = black + torch.tensor([51.0, 255.0, 0.0]).view(3, 1, 1, 1)
    assert psnr(black, grey).tolist() == pytest.approx([20 * math.log10(5), 0.0, 100.0])  # 255 / 51 = 5
    one = torch.zeros(1, 1, 2, 2)
    one[0, 0, 0, 0] = 51.0
    assert psnr(torch.zeros(1, 1, 2, 2), one).tolist() == pytest.approx([20 * math.log10(10)])  # RMSE 51 / 2


def test_ssim_of_flat_images_is_that_of_their_means() -> None:
    # without variance only the first factor is left: a = 100, b = 150
    a, b = torch.full((1, 1, 11, 11), 100.0), torch.full((1, 1, 11, 11), 150.0)
    expected = (2 * 100 * 150 + C1) / (100**2 + 150**2 + C1)
    assert ssim(a, b).tolist() == pytest.approx([expected])


def test_ssim_of_equal_images_is_one_and_of_negatives_is_low() -> None:
    a = images(0)
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 3)
    assert (ssim(a, 255 - a) < 0).all()


def test_ssim_is_the_mean_of_the_definition_over_whole_windows() -> None:
    a, b = images(1), images(2)

    def means(x: np.ndarray) -> np.ndarray:
        # scipy's filter of radius 5, whose borders are cut off: the same weights, from another hand
        return gaussian_filter(x, 1.5, radius=5, mode="constant")[5:-5, 5:-5]

    for i in range(3):
        values = []
        for channel in range(2):
            p, q = a[i, channel].double().numpy(), b[i, channel].double().numpy()
            mp, mq = means(p), means(q)
            vp, vq, c = means(p * p) - mp**2, means(q * q) - mq**2, means(p * q) - mp * mq
            values.append((2 * mp * mq + C1) * (2 * c + C2) / ((mp**2 + mq**2 + C1) * (vp + vq + C2)))
        assert ssim(a, b)[i].item() == pytest.approx(np.mean(values), rel=1e-6)


def test_images_smaller_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 8 by 8 pixels: SSIM needs 11 by 11"):
        ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
