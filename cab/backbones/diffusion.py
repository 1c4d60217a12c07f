"""Diffusion of images (Ho et al., arXiv 2006.11239), conditioned on the noise level, as SR3 has it (arXiv 2104.07636).

Images are from -1 to 1. A noisy image of level s is s * image + sqrt(1 - s²) * noise.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]  # noisy images (batch, ...), levels (batch,) -> the noise in them


class Diffusion:
    """A schedule whose variances go from `first` to `last` in a line over `steps`."""

    def __init__(self, steps: int, first: float, last: float) -> None:
        if steps < 1 or not 0 < first <= last < 1:
            raise ValueError(f"steps={steps}, first={first}, last={last}: at least 1 step, and 0 < first <= last < 1")
        self.steps = steps
        self.betas = torch.linspace(first, last, steps, dtype=torch.float64)
        kept = torch.cat([torch.ones(1, dtype=torch.float64), (1 - self.betas).cumprod(0)])
        self.levels = kept.sqrt()  # (steps + 1,), from 1, no noise, on

    def random_levels(self, count: int, device: torch.device) -> Tensor:
        """Draw levels (count,) for training: a step at random, and uniformly between its two levels."""
        step = torch.randint(self.steps, (count,), device=device)
        levels = self.levels.to(device, torch.float32)
        share = torch.rand(count, device=device)
        return levels[step] + share * (levels[step + 1] - levels[step])

    def fixed_levels(self, count: int) -> list[float]:
        """Return `count` levels to compare models at, in the middles of equal parts of the schedule."""
        return [float(self.levels[1 + int(self.steps * (i + 0.5) / count)]) for i in range(count)]

    def sample(self, network: Network, like: Tensor, noise: Callable[[], Tensor], steps: int) -> Tensor:
        """Sample images of the shape of `like`, from pure noise to none, at `steps` of the schedule's levels.

        The posterior of algorithm 2, with its variance, and the image that it is of cut to -1 to 1. `noise` draws noise
        of the shape of `like`. A network that knows the level may take fewer steps than in training
        (SR3, section 2.4).
        """
        if not 1 <= steps <= self.steps:
            raise ValueError(f"steps={steps}: from 1 to the schedule's {self.steps}")
        chosen = torch.linspace(0, self.steps, steps + 1, dtype=torch.float64).round().long()
        kept = (self.levels[chosen] ** 2).tolist()  # ᾱ before each step, and after the last
        x = noise()
        for step in range(steps, 0, -1):
            before, after = kept[step - 1], kept[step]
            alpha = after / before
            level = torch.full((len(like),), after**0.5, device=like.device)
            image = ((x - (1 - after) ** 0.5 * network(x, level)) / after**0.5).clamp(-1.0, 1.0)
            x = ((1 - alpha) * before**0.5 * image + (1 - before) * alpha**0.5 * x) / (1 - after)
            if step > 1:
                x = x + ((1 - alpha) * (1 - before) / (1 - after)) ** 0.5 * noise()
        return x


def noisy(images: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
    """Return images (batch, channels, height, width) with noise at levels (batch,)."""
    level = levels[:, None, None, None]
    return level * images + (1 - level**2).sqrt() * noise


class FixedNoise:
    """Draws noise of the same numbers for an example in every batch and on every device: by a seed for each example."""

    def __init__(self, seeds: Sequence[int], like: Tensor) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.like = like

    def __call__(self) -> Tensor:
        """Draw noise of the shape of `like`."""
        shape = self.like.shape[1:]
        return torch.stack([torch.randn(shape, generator=each) for each in self.generators]).to(self.like)
