"""How like two images are: PSNR and SSIM, one value a pair of images. Pixels are numbers from 0 to 255."""

from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

PEAK = 255.0
MOST = 100.0  # dB: equal images, whose ratio is infinite, have as much
WINDOW, DEVIATION = 11, 1.5  # of SSIM's Gaussian weights
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return 20 log10(255 / RMSE) of images a and b (batch, channels, height, width), at most `MOST`: (batch,)."""
    squares = (a.double() - b.double()).square().flatten(1).mean(1)
    return (10 * (PEAK**2 / squares).log10()).clamp(-inf, MOST)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of images a and b (batch, channels, height, width): (batch,).

    Wang et al. (IEEE Transactions on Image Processing 13, 2004), section III: Gaussian weights of 11 by 11 pixels with
    a deviation of 1.5, where the whole window lies in the image; the mean over windows and channels. `ValueError` where
    the images are smaller.
    """
    if min(a.shape[2:]) < WINDOW:
        raise ValueError(f"images of {a.shape[2]} by {a.shape[3]} pixels: SSIM needs {WINDOW} by {WINDOW}")
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=a.device) - WINDOW // 2
    line = (-(offsets**2) / (2 * DEVIATION**2)).exp()
    weights = torch.outer(line, line) / line.sum() ** 2

    def means(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], weights[None, None]).view(*x.shape[:2], -1)

    a, b = a.double(), b.double()
    mean_a, mean_b = means(a), means(b)
    variance_a, variance_b = means(a * a) - mean_a**2, means(b * b) - mean_b**2
    covariance = means(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return (likeness * (2 * covariance + C2) / (variance_a + variance_b + C2)).flatten(1).mean(1)
