"""ILA, attention within the frames of a video with one aligned token more (Tu et al., arXiv 2304.10465).

Two neighbouring frames predict a point in each of them, by convolutions over both. Around its point p each frame has
weights, with its rows and columns running from -1 to 1:

    M = w(row) w(column),   w(u) = 1 where |u - p| <= 1/4, else max(0, 1 - 1.5 (|u - p| - 1/4)),   p in [-3/4, 3/4]

a_t is the mean of what is in frame t and its neighbours, under the weights of all pairs that hold t. A query reads the
tokens of its own frame and a_t, by softmax; the key and the value of a_t are such means of k and v. This is the form of
the paper. The released code adds the weighed features to the tokens instead, with a loss that draws the two means of a
pair together; both are left out here.

w is averaged over `offset` to both sides and none, as the code does in training and evaluation. There are layer norms
over channels where the authors have batch norms. The last map begins with small numbers: with the authors' zeros the
rest of the network has no gradient at first. A masked place counts as zero for the convolutions, and is in no mean.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism
from cab.ops.precision import at_least_float32
from cab.ops.ragged import zero_masked
from cab.ops.softmax import masked_softmax

FULL, SLOPE, REACH = 0.25, 1.5, 0.75  # of the weights: where they are 1, how they fall, and how far a point may be


class Points(nn.Module):
    """Predict a point in each of two frames, from the tokens of both."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        wide, narrow = 4 * channels, 2 * channels
        self.each_channel = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.norm_of_each = nn.LayerNorm(2 * width)
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(2 * width, wide, 1),
                nn.Conv2d(wide, wide, 3, padding=1),
                nn.Conv2d(wide, narrow, 3, padding=1),
                nn.Conv2d(narrow, narrow, 3, padding=1),
            ]
        )
        self.norms = nn.ModuleList(nn.LayerNorm(conv.out_channels) for conv in self.convs)
        self.down, self.to_points = nn.Conv1d(narrow, channels, 1, groups=2), nn.Conv1d(channels, 4, 1, groups=2)
        nn.init.normal_(self.to_points.weight, std=0.02)
        nn.init.zeros_(self.to_points.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the column and row of the points, (pairs, frame, 2), of (pairs, 2 width, rows, columns)."""
        t = F.relu(self.norm_of_each(self.each_channel(frames).movedim(1, -1)).movedim(-1, 1))
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            t = norm(conv(t).movedim(1, -1)).movedim(-1, 1)
            t = F.max_pool2d(t, 2, ceil_mode=True) if number > 1 else t
            t = F.relu(t)
        t = F.relu(self.down(t.amax((2, 3)).unsqueeze(2)))
        return torch.unflatten(REACH * torch.tanh(self.to_points(t).squeeze(2)), 1, (2, 2))

    def flops(self, rows: int, columns: int) -> float:
        """Count the convolutions for one pair of frames."""
        half = -(-rows // 2) * -(-columns // 2)
        places = (rows * columns,) * 3 + (half,)
        convs = sum(size * conv.weight.numel() for size, conv in zip(places, self.convs, strict=True))
        return 2.0 * (
            rows * columns * self.each_channel.weight.numel()
            + convs
            + self.down.weight.numel()
            + self.to_points.weight.numel()
        )


class Ila(Mechanism):
    """Queries read their frame and one token that is pooled around predicted points of it and its neighbours."""

    patterns = {"NS": "extension"}
    refuses = {
        "CS": "the points of two frames look at all of both",
        "NC": "the neighbours of a frame are those of its own video",
        "CC": "the neighbours of a frame are those of its own video",
    }
    paper = "arXiv 2304.10465"
    titles = ("Implicit Temporal Modeling with Learnable Alignment for Video Recognition",)
    cost = "O(n (w + D) d)"
    inputs = {"x": ("queries", "real", "width")}
    rasters = (3,)
    accepts = {"channels": "even, >= 2", "offset": ">= 0"}
    checks = ({"channels": 8}, {"channels": 4, "offset": 0.0})

    def __init__(self, slot: Any, *, channels: int = 64, offset: float = 0.2) -> None:
        super().__init__(slot)
        self.offset = offset
        self.points = Points(slot.tokens, channels)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        x: Tensor,
    ) -> Tensor:
        """Pool the aligned tokens, and attend in all frames at once."""
        frames, rows, columns = self.slot.raster
        real = torch.ones_like(x[:, :, 0], dtype=torch.bool) if key_mask is None else key_mask
        real = torch.unflatten(real, 1, (frames, -1))[:, None, :, None]  # (batch, 1, frames, 1, places)
        q, k, v = (torch.unflatten(t, 2, (frames, -1)) for t in (q, k, v))
        if frames > 1:
            weights = self._weights(zero_masked(x.unsqueeze(1), key_mask).squeeze(1)).to(k.dtype)
            weights = weights * torch.stack([real[:, 0, :-1, 0], real[:, 0, 1:, 0]], 2)
            aligned, total = self._aligned(weights, k), self._aligned(weights, real.to(k.dtype).mT)
            whole = total > 0  # (batch, 1, frames, 1)
            total = total.where(whole, 1.0)
            k, v = torch.cat([k, aligned / total], 3), torch.cat([v, self._aligned(weights, v) / total], 3)
            real = torch.cat([real, whole], 4)
        scores = (q * self.slot.dim**-0.5) @ k.transpose(-1, -2)
        return (masked_softmax(scores, real) @ v).flatten(2, 3)

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        x: Tensor,
    ) -> Tensor:
        """Compute pair by pair what surrounds the points, and frame by frame the softmax."""
        frames, rows, columns = self.slot.raster
        real = torch.ones_like(x[0, :, 0], dtype=torch.bool) if key_mask is None else key_mask[0]
        images = (x[0] * real[:, None]).T.unflatten(1, (frames, rows, columns))  # (width, frame, row, column)
        real, q, k, v = real.view(frames, -1), *(t[0].unflatten(1, (frames, -1)) for t in (q, k, v))
        shifts = (-self.offset, 0.0, self.offset)

        def weight(distance: Tensor) -> Tensor:
            return torch.where(distance.abs() <= 0.25, 1.0, (1 - 1.5 * (distance.abs() - 0.25)).clamp(min=0))

        around = torch.zeros(frames - 1, 2, rows * columns, dtype=x.dtype, device=x.device)
        row, column = (
            torch.arange(side, device=x.device, dtype=x.dtype) * (2 / max(side - 1, 1)) - float(side > 1)
            for side in (rows, columns)
        )
        for pair in range(frames - 1):
            points = self.points(torch.cat([images[:, pair], images[:, pair + 1]])[None])[0]
            for frame, (of_column, of_row) in enumerate(points):
                masks = [
                    weight(row - of_row - down)[:, None] * weight(column - of_column - right)
                    for down in shifts
                    for right in shifts
                ]
                around[pair, frame] = torch.stack(masks).mean(0).flatten() * real[pair + frame]
        outs = []
        for frame in range(frames):
            pairs = [pair for pair in (frame - 1, frame) if 0 <= pair < frames - 1]
            seen, keys, values = real[frame], k[:, frame], v[:, frame]
            total = sum((around[pair].sum() for pair in pairs), x.new_zeros(()))
            if total > 0:
                pooled = [
                    sum(around[pair, i] @ t[:, pair + i] for pair in pairs for i in (0, 1)) / total for t in (k, v)
                ]
                keys, values = (torch.cat([t, a[:, None]], 1) for t, a in zip((keys, values), pooled, strict=True))
                seen = F.pad(seen, (0, 1), value=True)
            scores = q[:, frame] @ keys.mT / self.slot.dim**0.5
            outs.append(masked_softmax(scores, seen) @ values)
        return torch.cat(outs, 1).unsqueeze(0)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the points of each pair, the pooling, and the pairs within frames with the aligned tokens."""
        frames, rows, columns = self.slot.raster
        places, (heads, both) = rows * columns, (self.slot.heads, self.slot.dim + self.slot.values)
        pooling = 4.0 * (frames - 1) * places * (heads * both + 1)
        pairs = prod(self.slot.raster) * (places + (frames > 1))
        return (frames - 1) * self.points.flops(rows, columns) + pooling + 2.0 * heads * pairs * both

    def _weights(self, x: Tensor) -> Tensor:
        """Return the weights of both frames of each pair, (batch, pairs, 2, places)."""
        frames, rows, columns = self.slot.raster
        images = torch.unflatten(x, 1, (frames, rows, columns)).permute(0, 1, 4, 2, 3)
        points = self.points(torch.cat([images[:, :-1], images[:, 1:]], 2).flatten(0, 1))
        points = points.to(at_least_float32(points))
        of_column, of_row = (self._along(points[..., axis], side) for axis, side in ((0, columns), (1, rows)))
        return torch.unflatten((of_row.unsqueeze(3) * of_column.unsqueeze(2)).flatten(2), 0, (-1, frames - 1))

    def _along(self, points: Tensor, side: int) -> Tensor:
        """Return w of each place of an axis, averaged over the offsets: (pairs, 2, side)."""
        like = {"dtype": points.dtype, "device": points.device}
        place = torch.linspace(-1, 1, side, **like) if side > 1 else torch.zeros(1, **like)
        shifts = torch.tensor([-self.offset, 0.0, self.offset], **like)
        distance = (place - (points.unsqueeze(2) + shifts).unsqueeze(3)).abs()
        return (1 - SLOPE * (distance - FULL)).clamp(0, 1).mean(2)

    def _aligned(self, weights: Tensor, t: Tensor) -> Tensor:
        """Sum t (batch, heads, frames, places, ·) under the weights of the pairs that hold a frame."""
        first, second = (weights[:, None, :, frame, None] for frame in (0, 1))
        pairs = first @ t[:, :, :-1] + second @ t[:, :, 1:]
        return F.pad(pairs, (0, 0, 0, 0, 0, 1)) + F.pad(pairs, (0, 0, 0, 0, 1, 0))
