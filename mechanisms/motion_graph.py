"""The graph of motion (Sun et al., arXiv 2305.09156): values cross a symmetric graph of tokens with alike features.

With features f = W2 relu(W1 x) of each head (the MLP of the authors' code), and degrees D = the row sums of A,

    A_ij = exp(tau cos(f_i, f_j)),   out = D^(-1/2) A D^(-1/2) v,   tau = 1 + 3 pi sigmoid(mean of f)

so that what a token sends is divided among those alike, and no row sums to one. The authors' two networks, which update
f and v from the result several times, are a model around it and are left out.

- NS is the paper's, on rasters too: no position enters. tau is of the tokens of the sample.
- NC (ours): a graph between targets and sources; rows and columns of A have degrees of their own, and tau is of the
  source.
- CC (ours): the degrees of the source are those of its own graph, so that a row uses no other target.
- CS (ours): the degree of a token is its row sum over the tokens up to it, and tau is learned, one for each head.
"""

from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache, visible_in_cache
from cab.ops.channels import heads_of
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.softmax import visible

Maybe = Tensor | None


class MotionGraph(Mechanism):
    """Tokens exchange values with those whose features are alike, as on a graph with normalised degrees."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2305.09156"
    titles = (
        "Modelling Human Visual Motion Processing with Trainable Motion Energy Sensing and a Self-attention Network",
    )
    cost = "O(n m d)"
    reads = "v"
    inputs = {"x": ("queries", "real", "width"), "y": ("keys", "real", "width")}
    rasters = {"NS": (1, 2, 3)}

    def __init__(self, slot: Any) -> None:
        super().__init__(slot)
        channels = slot.heads * slot.dim
        self.features = nn.Sequential(
            nn.Linear(slot.tokens, channels, bias=False), nn.ReLU(), nn.Linear(channels, channels, bias=False)
        )
        self.sharpness = nn.Parameter(torch.zeros(slot.heads, 1, 1)) if slot.pattern is Pattern.CS else None

    def attend(
        self, q: None, k: None, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, x: Tensor, y: Tensor
    ) -> Tensor:
        """Write the whole graph."""
        of_x, of_y = self._features(x), self._features(y)
        tau = self._tau(of_y, key_mask)
        edges = self._edges(of_x, of_y, tau, visible(self.slot.pattern, x.shape[1], y.shape[1], key_mask, x.device))
        if self.slot.pattern is Pattern.CS:
            degrees = edges.sum(3, keepdim=True)
        elif self.slot.pattern is Pattern.CC:
            degrees = self._source_degrees(of_y, tau, key_mask)
        else:
            real = edges if query_mask is None else edges.masked_fill(~query_mask[:, None, :, None], 0.0)
            degrees = real.sum(2).unsqueeze(3)
        return self._pass(edges, v, degrees)

    def reference(
        self, q: None, k: None, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, x: Tensor, y: Tensor
    ) -> Tensor:
        """Write the adjacency, its degrees and the normalised product."""

        def edges(x: Tensor, y: Tensor) -> Tensor:
            cosines = F.cosine_similarity(x.unsqueeze(3), y.unsqueeze(2), dim=4, eps=1e-12)
            return (tau * cosines).exp()

        of_x, of_y = (self.features(t).unflatten(2, (self.slot.heads, -1)).transpose(1, 2) for t in (x, y))
        real = torch.ones_like(y[:, None, None, :, 0]) if key_mask is None else key_mask[:, None, None].to(y.dtype)
        if self.sharpness is None:
            mean = (of_y * real.mT).sum((2, 3), keepdim=True) / real.sum().clamp(min=1) / self.slot.dim
        else:
            mean = self.sharpness
        tau = 1 + 3 * pi * torch.sigmoid(mean)
        graph = edges(of_x, of_y) * real
        if self.slot.pattern is Pattern.CS:
            graph = graph.tril()
        rows, columns = graph.sum(3), graph.sum(2)
        if not self.slot.pattern.cross:  # a masked place sends nothing, and asks for nothing
            columns = (graph * real.mT).sum(2)
        if self.slot.pattern.causal:
            columns = edges(of_y, of_y).sum(3) if self.slot.pattern.cross else rows
        columns = columns.where(columns > 0, 1.0)
        return graph / (rows.unsqueeze(3).clamp(min=1e-30) * columns.unsqueeze(2)) ** 0.5 @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the features and the pairs; in CC those of the source's own graph too."""
        slot, linears = self.slot, (each for each in self.features if isinstance(each, nn.Linear))
        pairs = n * m * (slot.dim + slot.values) + (m * m * slot.dim if slot.pattern is Pattern.CC else 0)
        return 2.0 * (n + m) * sum(each.weight.numel() for each in linears) + 2.0 * slot.heads * pairs

    def init_state(self, k: None, v: Tensor, key_mask: Maybe = None, *, y: Tensor) -> Any:
        """Keep the source's features and what each of its tokens sends (CC); or begin with no token (CS)."""
        of_y = self._features(y)
        wide = v.to(of_y.dtype)
        if not self.slot.pattern.cross:
            return empty_cache(of_y), empty_cache(wide)
        tau = self._tau(of_y, key_mask)
        seen = visible(self.slot.pattern, 1, y.shape[1], key_mask, y.device)
        kept = torch.ones_like(y[:, None, None, :, 0], dtype=torch.bool) if seen is None else seen
        return of_y, _over_root(wide, self._source_degrees(of_y, tau, key_mask)), tau, kept

    def step(
        self,
        state: Any,
        q: None,
        k: None = None,
        v: Maybe = None,
        key_mask: Maybe = None,
        *,
        x: Tensor,
        y: Maybe = None,
    ) -> tuple[Tensor, Any]:
        """Read the source (CC), or the tokens up to each new one (CS)."""
        of_x = self._features(x)
        if v is None or y is None:
            of_y, sent, tau, kept = state
            edges = self._edges(of_x, of_y, tau, kept)
            with full_precision(x.device.type):
                out = edges @ sent
            return _over_root(out, edges.sum(3, keepdim=True)).to(x.dtype), state
        features, sent = state
        features, position = extend_cache(features, (self._features(y),), key_mask)
        edges = self._edges(of_x, features[0][0], self._tau(of_x, None), visible_in_cache(features, position))
        degrees = edges.sum(3, keepdim=True)
        sent, _ = extend_cache(sent, (_over_root(v.to(edges.dtype), degrees),), key_mask)
        with full_precision(x.device.type):
            out = edges @ sent[0][0]
        return _over_root(out, degrees).to(v.dtype), (features, sent)

    def _features(self, x: Tensor) -> Tensor:
        """Return f, (batch, heads, length, dim), in float32 at least: exponents are taken of it."""
        f = heads_of(self.features(x), self.slot.heads)
        return f.to(at_least_float32(f))

    def _tau(self, f: Tensor, mask: Maybe) -> Tensor:
        if self.sharpness is not None:
            return 1 + 3 * pi * self.sharpness.to(f.dtype).sigmoid()
        if mask is None:
            mean = f.mean((2, 3), keepdim=True)
        else:
            total = f.masked_fill(~mask[:, None, :, None], 0.0).sum((2, 3), keepdim=True)
            mean = total / (mask.sum(1).clamp(min=1)[:, None, None, None] * self.slot.dim)
        return 1 + 3 * pi * mean.sigmoid()

    def _edges(self, of_x: Tensor, of_y: Tensor, tau: Tensor, seen: Maybe) -> Tensor:
        """Return A over exp(tau), which cancels, and zero where not seen."""
        with full_precision(of_x.device.type):
            cosines = F.normalize(of_x, dim=3) @ F.normalize(of_y, dim=3).mT
        edges = (tau * (cosines - 1)).exp()
        return edges if seen is None else edges.masked_fill(~seen, 0.0)

    def _source_degrees(self, of_y: Tensor, tau: Tensor, key_mask: Maybe) -> Tensor:
        seen = None if key_mask is None else key_mask[:, None, None, :]
        return self._edges(of_y, of_y, tau, seen).sum(3, keepdim=True)

    def _pass(self, edges: Tensor, v: Tensor, degrees: Tensor) -> Tensor:
        """Return D^(-1/2) A D^(-1/2) v, with the degrees of the keys (batch, heads, m, 1)."""
        sent = _over_root(v.to(edges.dtype), degrees)
        with full_precision(v.device.type):
            return _over_root(edges @ sent, edges.sum(3, keepdim=True)).to(v.dtype)


def _over_root(t: Tensor, degrees: Tensor) -> Tensor:
    return t * degrees.where(degrees > 0, 1.0).rsqrt()
