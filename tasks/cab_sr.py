"""CAB's super-resolution (Zhang et al., arXiv 2210.07661, table 1): an image from a smaller one, by SR3's diffusion.

    x        the image made `factor` times smaller and as large again, bicubic: (channels, side, side), from -1 to 1
    target   the image; `seq_len` is its pixels, side * side

`images` is faces (FFHQ, and CelebA-HQ for the test), which are put into the data folder, or fashion-mnist, which
`cab data get cab_sr` brings and which is comparable with nothing.

The headline is `eps_mse`, the squared error of the noise that the network finds, at fixed levels and with the same
noise for an image in every epoch, seed and mechanism. PSNR and SSIM are of samples, whose noise is fixed too. PSNR of
samples ranks otherwise than the headline where a blurred image is nearer to the truth than a sharp one.

Departures at quick scale: grey images of 16 by 16 pixels from 4 by 4, a small U-Net of one level whose convolutions see
one pixel, with sinusoids of rows and columns in its attention, and 100 steps of diffusion, 20 of which a sample takes.
With the published convolutions of 3 by 3, or with halvings, a model without attention does nearly as well.
"""

import hashlib
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Missing, Source
from cab.backbones.diffusion import Diffusion, FixedNoise, noisy
from cab.backbones.image_quality import PEAK, WINDOW, psnr, ssim
from cab.backbones.sr3 import UNet
from cab.contracts.task import LayerFactory
from cab.data import faces, fashion_mnist
from cab.errors import UsageError, unknown
from cab.suites.real_data import RealDataTask

COMMAND = "cab data get cab_sr"
IMAGES = ("fashion-mnist", "faces")
LEVELS = 4  # of noise, that the headline is the mean over
CHANNELS = {"fashion-mnist": 1, "faces": 3}
Example = tuple[Any, Any]


class Pairs:
    """A split: item i is an image's bicubic copy of a lower resolution and the image, both uint8 (side, side, c)."""

    def __init__(self, images: Any, factor: int) -> None:
        self.images, self.factor = images, factor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> Example:
        image = self.images[index]
        return blurred(image, self.factor), image


class CabSR(RealDataTask):
    """Super-resolution of square images of `seq_len` pixels."""

    slots = ("NS",)
    metrics = {"eps_mse": ("", False), "psnr": ("dB", True), "ssim": ("fraction", True)}
    rasters = (2,)
    data = ("fashion-mnist", "ffhq_16_128", "celebahq_16_128")
    paper = "arXiv 2210.07661"
    departures = (
        ("convolutions of 1 by 1", {"kernel": 1}),
        ("no halving", {"levels": 1}),
        ("positions in attention", {"positions": ("learned", "sinusoidal")}),
    )

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 8,
        images: str = "fashion-mnist",
        factor: int = 4,
        diffusion_steps: int = 100,
        sampling_steps: int = 20,
        first_variance: float = 2e-5,
        last_variance: float = 0.2,
        levels: int = 2,
        blocks: int = 1,
        least_side: int = 16,
        most_side: int = 16,
        kernel: int = 3,
        groups: int = 8,
        positions: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if images not in IMAGES:
            raise unknown("images", images, IMAGES)
        self.side = isqrt(seq_len)
        if self.side**2 != seq_len:
            raise ValueError(f"seq_len={seq_len}: the pixels of a square image, as 1024")
        if self.side < WINDOW:
            raise ValueError(f"seq_len={seq_len}: at least {WINDOW**2}, for SSIM compares {WINDOW} by {WINDOW} pixels")
        at_least_one = {"heads": heads, "dim": dim, "factor": factor, "levels": levels, "blocks": blocks}
        for name, value in {**at_least_one, "groups": groups}.items():
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1")
        if self.side % factor:
            raise ValueError(f"factor={factor} does not divide the side of {self.side} pixels")
        if not 1 <= sampling_steps <= diffusion_steps:
            raise ValueError(f"sampling_steps={sampling_steps}: from 1 to diffusion_steps={diffusion_steps}")
        self.images, self.factor, self.sampling_steps = images, factor, sampling_steps
        self.diffusion = Diffusion(diffusion_steps, first_variance, last_variance)
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "levels": levels,
            "blocks": blocks,
            "least_side": least_side,
            "most_side": most_side,
            "kernel": kernel,
            "groups": groups,
            "positions": positions,
            "dropout": dropout,
        }

    def fetch(self, folder: Path) -> None:
        """Bring Fashion-MNIST, 31 MB, through apt."""
        fashion_mnist.fetch(folder)

    def source(self, folder: Path) -> Source | Missing:
        """Use the images that were asked for; faces are never replaced by clothes."""
        by_split: dict[str, Any]
        if self.images == "faces":
            by_split = dict(faces.read_tree(folder) or {})
            if not by_split:
                return Missing(f"{faces.BRING}; or task.images=fashion-mnist")
            native, name = faces.SIDE, "FFHQ and CelebA-HQ"
            note = "their own terms, for non-commercial use; training and validation FFHQ, test CelebA-HQ"
        else:
            tree = folder / fashion_mnist.FOLDER
            if not tree.exists():
                return Missing(f"{COMMAND} (Fashion-MNIST: Debian's package, 31 MB)")
            native, name = 28 + 2 * fashion_mnist.MARGIN, "Fashion-MNIST"
            train, test = (fashion_mnist.read(tree, split)[0] for split in ("train", "test"))
            count = len(train) * 9 // 10
            parts = {"train": train[:count], "validation": train[count:], "test": test}
            by_split = {split: pixels.reshape(-1, native, native, 1) for split, pixels in parts.items()}
            note = f"the last tenth of training is for validation; MIT licence; {tree}"
        if self.side > native:
            raise UsageError(f"seq_len={self.seq_len}: {name} has {native} x {native} pixels; give {native**2} or less")
        self.splits = {split: Pairs(Resized(each, self.side), self.factor) for split, each in by_split.items()}
        return Source(name, self.images == "faces" and self.side == native, self.counts(), note)

    def collate(self, examples: Sequence[Example], trim: bool = False) -> Batch:
        """Return x and target (batch, channels, side, side), from -1 to 1."""
        condition, image = (torch.from_numpy(np.stack(parts)) for parts in zip(*examples, strict=True))
        return Batch(scaled(condition.permute(0, 3, 1, 2)), target=scaled(image.permute(0, 3, 1, 2)))

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build SR3's U-Net."""
        return UNet(attention, side=self.side, image_channels=CHANNELS[self.images], **self.sizes)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean absolute error of the noise, at random levels."""
        assert batch.target is not None
        levels = self.diffusion.random_levels(len(batch.x), batch.x.device)
        noise = torch.randn_like(batch.target)
        predicted = model(torch.cat([batch.x, noisy(batch.target, levels, noise)], 1), levels)
        return F.l1_loss(predicted.float(), noise)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return for each example the error of its noise, and PSNR and SSIM of its sample: (batch,)."""
        assert batch.target is not None
        target = batch.target
        noise = FixedNoise([_seed(each) for each in target], target)
        errors = []
        for level in self.diffusion.fixed_levels(LEVELS):
            drawn = noise()
            levels = torch.full((len(target),), level, device=target.device)
            predicted = model(torch.cat([batch.x, noisy(target, levels, drawn)], 1), levels)
            errors.append((predicted.float() - drawn).square().flatten(1).mean(1))

        def network(x: Tensor, levels: Tensor) -> Tensor:
            return model(torch.cat([batch.x, x], 1), levels).float()  # type: ignore[no-any-return]

        sample = bytes_of(self.diffusion.sample(network, target, noise, self.sampling_steps))
        image = bytes_of(target)
        return {"eps_mse": torch.stack(errors).mean(0), "psnr": psnr(sample, image), "ssim": ssim(sample, image)}

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the scores of the bicubic copy, and of what follows from it about the noise."""
        batch = self.collate(self.spread("test", 1000))
        assert batch.target is not None
        squares = (batch.x - batch.target).square().mean().item()
        # a noisy image less the copy at its level, over the deviation of the noise
        ratios = [level**2 / (1 - level**2) for level in self.diffusion.fixed_levels(LEVELS)]
        copy, image = bytes_of(batch.x), bytes_of(batch.target)
        scores = {"psnr": psnr(copy, image).mean().item(), "ssim": ssim(copy, image).mean().item()}
        return {"bicubic": {"eps_mse": squares * sum(ratios) / LEVELS, **scores}}


class Resized:
    """Images (native, native, channels) made smaller, by the mean of the area: item i is (side, side, channels)."""

    def __init__(self, images: Any, side: int) -> None:
        self.images, self.side = images, side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> Any:
        from PIL import Image

        image = self.images[index]
        if len(image) == self.side:
            return image
        smaller = picture(image).resize((self.side, self.side), Image.Resampling.BOX)
        return np.asarray(smaller).reshape(self.side, self.side, -1)


def blurred(image: Any, factor: int) -> Any:
    """Make an image uint8 (side, side, channels) `factor` times smaller, and as large again, bicubic both times."""
    from PIL import Image

    side = len(image)
    small = picture(image).resize((side // factor, side // factor), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).reshape(image.shape)


def picture(image: Any) -> Any:
    """Return pixels, uint8 (side, side, channels), as an image of Pillow."""
    from PIL import Image

    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def scaled(pixels: Tensor) -> Tensor:
    """Return pixels from 0 to 255 as numbers from -1 to 1."""
    return pixels.float() / PEAK * 2 - 1


def bytes_of(images: Tensor) -> Tensor:
    """Return images from -1 to 1 as whole numbers from 0 to 255; what is beyond is cut."""
    return ((images.float().clamp(-1, 1) + 1) / 2 * PEAK).round()


def _seed(image: Tensor) -> int:
    """Return a number for the noise of an image (channels, side, side): a function of its pixels."""
    content = bytes_of(image).to(torch.uint8).cpu().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
