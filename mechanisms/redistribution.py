"""Softmax attention whose map is changed before it weighs values: weight is moved, or its fast waves are amplified.

`form=sinks` (VAR, "See What You Are Told", arXiv 2503.03321). A key is a sink where a channel c of its token y_j has
|y_jc| > threshold sqrt(width) rms(y_j). In a row, of a head, whose image tokens hold a weight of at least `image_mass`,
sinks among them at most the share `sink_share` of it, every sink keeps `kept` of its weight. What is freed goes to the
image tokens that are no sinks, in proportion to their weights; the row's sum stays. `source_modality` is 1 for image
tokens. The authors' threshold, 20 at a width of 4096, is .3125 of the largest value that a channel can have; they look
at the two channels where their model's sinks show, here any channel counts. Whether a key is a sink has no gradient.

`form=spectrum` (BroadWay, arXiv 2410.06241), provisional: read from the short listing that its authors show. Along its
m keys, in their order, each row is taken apart into waves. Those of at least m / 2 - band periods, but the constant
one, are amplified by `amplify`. The row's sum stays; a weight may be negative. The filter is the matrix of its circular
convolution, of each sample's own number of keys. At odd m the authors' band is one wave wider on one side. Left out are
their lower bound of `amplify` by the energy of two maps, and the blend with the map of an earlier layer.

- Both are published for trained models, as a change at inference; here the same is computed in training.
- `sinks`: CS is the paper's. NS, NC and CC (ours) do the same in each row.
- `spectrum`: NS is the paper's form, graded as ours while it is provisional. NC and CC are ours. In CS rows see
  different numbers of keys, and there is none.
"""

from math import pi
from typing import Any

import torch
from torch import Tensor

from cab import Pattern, Unsupported
from cab.ops.pairwise import Pairwise
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.softmax import masked_softmax, repeat_heads

IMAGE = 1  # of the input `source_modality`
Mask = Tensor | None


class Redistribution(Pairwise):
    """Softmax attention, and a change of its map."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"form": "spectrum"},)
    paper = "arXiv 2503.03321"
    titles = (
        "See What You Are Told: Visual Attention Sink in Large Multimodal Models",
        "BroadWay: Boost Your Text-to-Video Generation Model in a Training-free Way",
    )
    cost = "O(n m d), and O(n m^2) for form=spectrum"
    inputs = {
        "y": ("keys", "real", "width", {"form": "sinks"}),
        "source_modality": ("keys", "index", 3, {"form": "sinks"}),
    }
    grouped = True
    accepts = {
        "form": ("sinks", "spectrum"),
        "threshold": "> 0, <= 1",
        "image_mass": "> 0, <= 1",
        "sink_share": ">= 0, < 1",
        "kept": ">= 0, <= 1",
        "amplify": "> 0",
        "band": ">= 1",
    }
    checks = (
        {"threshold": 0.5, "sink_share": 0.6, "image_mass": 0.1},
        {"threshold": 0.55, "kept": 0.1, "sink_share": 0.6},
        {"form": "spectrum", "amplify": 1.5, "band": 7, "patterns": ["NS", "NC", "CC"]},
    )
    limits = (
        {"params": {"kept": 1.0}, "equals": "softmax"},
        {"params": {"form": "spectrum", "amplify": 1.0}, "equals": "softmax", "patterns": ["NS", "NC", "CC"]},
    )
    exempt = {"learning:y": "whether a token is a sink has no gradient (arXiv 2503.03321)"}

    def __init__(
        self,
        slot: Any,
        *,
        form: str = "sinks",
        threshold: float = 0.3125,
        image_mass: float = 0.2,
        sink_share: float = 0.5,
        kept: float = 0.6,
        amplify: float = 1.5,
        band: int = 7,
    ) -> None:
        super().__init__(slot)
        if form == "spectrum" and slot.pattern is Pattern.CS:
            raise Unsupported("form=spectrum in CS: a filter along the keys needs as many in every row")
        self.form, self.threshold, self.image_mass, self.sink_share = form, threshold, image_mass, sink_share
        self.kept, self.amplify, self.band = kept, amplify, band

    def keep(self, k: Tensor, v: Tensor, position: Tensor, **inputs: Any) -> tuple[Tensor, ...]:
        """Keep keys and values, and of each key 1 for an image token, 2 for a sink, 3 for both."""
        if self.form == "spectrum":
            return k, v
        y = inputs["y"].detach().to(at_least_float32(inputs["y"]))
        largest, size = y.abs().amax(-1), y.square().mean(-1).sqrt()
        sink = largest > self.threshold * y.shape[-1] ** 0.5 * size
        return k, v, ((inputs["source_modality"] == IMAGE).long() + 2 * sink.long())[:, None, :, None]

    def read(
        self, q: Tensor, k: Tensor, v: Tensor, *kinds: Tensor, seen: Mask, position: Tensor, query_mask: Mask
    ) -> Tensor:
        """Write the whole (queries, keys) matrix of weights, and change it."""
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        scores = ((q * self.slot.dim**-0.5) @ k.mT).to(at_least_float32(q))
        with full_precision(q.device.type):
            weights = masked_softmax(scores, seen)
            if kinds:
                weights = self._moved(weights, kinds[0].mT)
            else:
                real = k.new_ones(k.shape[0], k.shape[2], dtype=torch.bool) if seen is None else seen[:, 0, 0]
                weights = self._filtered(weights, real)
        return weights.to(v.dtype) @ v

    def reference(self, q: Tensor, k: Tensor, v: Tensor, **inputs: Tensor) -> Tensor:
        """Row by row: move the weight of sinks, or filter by a Fourier transform."""
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        scores = (q @ k.mT).to(at_least_float32(q)) / self.slot.dim**0.5
        if self.slot.pattern is Pattern.CS:
            scores = scores.masked_fill(torch.ones_like(scores[0, 0]).triu(1).bool(), -torch.inf)
        weights = scores.softmax(-1)
        if self.form == "spectrum":
            m = k.shape[2]
            waves = torch.fft.fft(weights)
            periods = torch.fft.fftfreq(m, 1 / m).to(weights).abs()
            factor = torch.where((periods >= m / 2 - self.band) & (periods > 0), self.amplify, 1.0)
            return torch.fft.ifft(waves * factor).real.to(v.dtype) @ v
        y = inputs["y"][0].detach().to(scores.dtype)
        image, limit = inputs["source_modality"][0] == IMAGE, self.threshold * y.shape[1] ** 0.5
        sink, rows = (y.abs() > limit * y.square().mean(1, keepdim=True).sqrt()).any(1), []
        for row in weights.flatten(0, 2):
            seen, lost = row[image].sum(), row[image & sink].sum()
            if seen >= self.image_mass and lost <= self.sink_share * seen:
                freed = (1 - self.kept) * row[sink].sum()
                more = torch.where(image & ~sink, row / row[image & ~sink].sum() * freed, 0.0)
                row = torch.where(sink, self.kept * row, row + more)
            rows.append(row)
        return torch.stack(rows).view_as(weights).to(v.dtype) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count all pairs, and the filter, which is not needed: a Fourier transform does the same."""
        return super().flops(n, m) + 2.0 * self.slot.heads * n * m * m * (self.form == "spectrum")

    def _moved(self, weights: Tensor, kinds: Tensor) -> Tensor:
        image, sink = kinds % 2 == 1, kinds >= 2
        others, lost = ((weights * where).sum(-1, keepdim=True) for where in (image & ~sink, image & sink))
        changed = (others + lost >= self.image_mass) & (lost <= self.sink_share * (others + lost))
        freed = (1 - self.kept) * (weights * sink).sum(-1, keepdim=True)
        more = 1 + freed / others.where(changed, 1.0)
        factor = torch.where(sink, self.kept, more.where(image, 1.0))
        return weights * factor.where(changed, 1.0)

    def _filtered(self, weights: Tensor, real: Tensor) -> Tensor:
        """Take the slow waves out, by the matrix of their sum (a Dirichlet kernel), and amplify the rest."""
        m = real.sum(1)[:, None, None].clamp(min=1)
        most = ((m / 2 - self.band).ceil() - 1).clamp(min=0).long()
        position = torch.arange(real.shape[1], device=real.device)
        away = (position[:, None] - position).abs()
        turns = ((2 * most + 1) * away % (2 * m)).to(weights.dtype) / m  # of half a circle
        ratio = torch.sin(pi * turns) / torch.sin(pi * away.to(weights.dtype) / m).where(away % m != 0, 1.0)
        slow = torch.where(away % m == 0, (2 * most + 1).to(weights.dtype), ratio) / m
        slow = slow.where(real[:, None] & real[:, :, None], 0.0).unsqueeze(1)
        return self.amplify * weights + (1 - self.amplify) * (weights @ slow)
