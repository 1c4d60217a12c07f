"""SR3's U-Net (Saharia et al., arXiv 2104.07636), as its usual open implementation has it, with attention as slots.

The slots are NS, on rasters: the pixels of a level. The network is told how much noise there is in its input.
"""

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab.backbones.dropout import Dropout
from cab.backbones.positions import LearnedPositions, SinusoidalPositions
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.contracts.task import LayerFactory
from cab.errors import unknown

POSITIONS = ("learned", "none", "sinusoidal")
WIDEST = 8  # a level has twice the channels of the one above, up to so many times those of the first


class NoiseLevel(nn.Module):
    """Sinusoids of a noise level, and a network with one hidden layer: (batch,) to (batch, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.net = nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels))

    def forward(self, level: Tensor) -> Tensor:
        half = self.channels // 2
        frequency = torch.exp(-log(1e4) * torch.arange(half, dtype=level.dtype, device=level.device) / half)
        angle = level[:, None] * frequency
        return self.net(F.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, self.channels - 2 * half)))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions, each after group norm and SiLU, with the noise level added between them."""

    def __init__(self, channels: int, out: int, noise: int, *, kernel: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(groups, channels), nn.GroupNorm(groups, out)])
        self.convolutions = nn.ModuleList(_convolution(size, out, kernel) for size in (channels, out))
        self.noise = nn.Linear(noise, out)
        self.dropout = Dropout(dropout)
        self.shortcut: nn.Module = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return (batch, out, side, side) of x (batch, channels, side, side) and noise (batch, noise)."""
        h = self.convolutions[0](F.silu(self.norms[0](x)))
        h = h + self.noise(noise)[:, :, None, None]
        h = self.convolutions[1](self.dropout(F.silu(self.norms[1](h))))
        return h + self.shortcut(x)  # type: ignore[no-any-return]


class RowsAndColumns(nn.Module):
    """Adds sinusoids of a pixel's row to the first half of its channels, and of its column to the second."""

    table: Tensor  # (side², channels)

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        line = SinusoidalPositions(side, channels // 2).table
        rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
        table = F.pad(torch.cat([rows, columns], 2), (0, channels % 2)).flatten(0, 1)
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table.to(x.dtype)


class PixelAttention(nn.Module):
    """An attention layer over the pixels of x (batch, channels, side, side), after group norm, and added to x."""

    def __init__(self, attention: nn.Module, channels: int, side: int, *, groups: int, positions: str) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(groups, channels), attention
        if positions == "learned":
            self.positions: nn.Module = LearnedPositions(side**2, channels)
        else:
            self.positions = RowsAndColumns(side, channels) if positions == "sinusoidal" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.positions(self.norm(x).flatten(2).transpose(1, 2))
        return x + self.attention(tokens).transpose(1, 2).view_as(x)  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Maps a condition and a noisy image (batch, 2 * image_channels, side, side) to the noise in the image.

    `levels` are the sides: each is half the one before. Blocks of levels whose side is from `least_side` to `most_side`
    have attention, and the one in the middle always. The channels of the first level are heads * dim, and a slot has
    the channels of its level. With `kernel` 1 a pixel reads no other in the blocks, and 2 by 2 where the side is
    halved; with 3, as published, its neighbours. `positions` is what each attention layer adds to its pixels: none, as
    published, learned vectors, or sinusoidal ones of rows and columns.
    """

    def __init__(
        self,
        attention: LayerFactory,
        *,
        side: int,
        image_channels: int,
        heads: int,
        dim: int,
        levels: int = 5,
        blocks: int = 2,
        least_side: int = 16,
        most_side: int = 16,
        kernel: int = 3,
        groups: int = 32,
        positions: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if side % 2 ** (levels - 1):
            raise ValueError(f"side={side}: {levels} levels need a multiple of {2 ** (levels - 1)}")
        if positions not in POSITIONS:
            raise ValueError(str(unknown("positions", positions, POSITIONS)))
        if kernel not in (1, 3):
            raise ValueError(f"kernel={kernel}: 1 or 3")
        first = heads * dim
        if first % groups:
            raise ValueError(f"groups={groups} does not divide heads * dim = {first}")
        sides = [side >> level for level in range(levels)]
        widths = [first * min(2**level, WIDEST) for level in range(levels)]
        attended = [least_side <= each <= most_side for each in sides]
        count = (2 * blocks + 1) * sum(attended) + 1  # slots
        built = 0

        def block(channels: int, level: int, with_attention: bool) -> nn.ModuleList:
            nonlocal built
            width, raster = widths[level], (sides[level], sides[level])
            parts = nn.ModuleList(
                [ResidualBlock(channels, width, first, kernel=kernel, groups=groups, dropout=dropout)]
            )
            if with_attention:
                slot = Slot(
                    Pattern.NS, heads, width // heads, sides[level] ** 2, raster=raster, layer=built, layers=count
                )
                built += 1
                layer = attention(slot)
                parts.append(PixelAttention(layer, width, sides[level], groups=groups, positions=positions))
            return parts

        self.noise = NoiseLevel(first)
        self.first = _convolution(2 * image_channels, first, kernel)
        self.downs, self.halvings = nn.ModuleList(), nn.ModuleList()
        channels, kept = first, [first]
        for level, width in enumerate(widths):
            for _ in range(blocks):
                self.downs.append(block(channels, level, attended[level]))
                channels = width
                kept.append(channels)
            if level < levels - 1:
                halving = nn.Conv2d(width, width, 3, 2, 1) if kernel == 3 else nn.Conv2d(width, width, 2, 2)
                self.halvings.append(halving)
                kept.append(channels)
        self.middle = nn.ModuleList([block(channels, levels - 1, True), block(channels, levels - 1, False)])
        self.ups, self.doublings = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(levels)):
            for _ in range(blocks + 1):
                self.ups.append(block(channels + kept.pop(), level, attended[level]))
                channels = widths[level]
            if level:
                self.doublings.append(_convolution(channels, channels, kernel))
        self.last = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), _convolution(channels, image_channels, kernel)
        )
        self.blocks = blocks

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return (batch, image_channels, side, side) of x (batch, 2 * image_channels, side, side), level (batch,)."""
        noise = self.noise(level)

        def through(block: nn.Module, x: Tensor) -> Tensor:
            first, *rest = block.children()
            x = first(x, noise)
            for attention in rest:
                x = attention(x)
            return x

        x = self.first(x)
        kept = [x]
        for number, down in enumerate(self.downs, 1):
            x = through(down, x)
            kept.append(x)
            if number % self.blocks == 0 and number < len(self.downs):
                x = self.halvings[number // self.blocks - 1](x)
                kept.append(x)
        for each in self.middle:
            x = through(each, x)
        for number, up in enumerate(self.ups, 1):
            x = through(up, torch.cat([x, kept.pop()], 1))
            if number % (self.blocks + 1) == 0 and number < len(self.ups):
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.doublings[number // (self.blocks + 1) - 1](x)
        return self.last(x)  # type: ignore[no-any-return]


def _convolution(channels: int, out: int, kernel: int) -> nn.Module:
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2)
