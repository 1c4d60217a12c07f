"""PoinTr (Yu et al., arXiv 2108.08839): an encoder over a part of a point cloud, a decoder that gives the whole of it.

Every self and cross attention layer is a slot. The encoder's and the decoder's self attention are NS, the decoder's
cross attention NC. Points are in farthest-first order, so that the first of a cloud are a sample of it.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab.backbones.encoder import EncoderBlock
from cab.backbones.encoder_decoder import DecoderBlock
from cab.backbones.point_distances import neighbours
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.contracts.task import LayerFactory
from cab.errors import unknown

QUERIES = ("coarse", "learned")
GROUPED = 16  # neighbours of a point in the grouping
GEOMETRIC = 8  # and in a geometry-aware block
SLOPE = 0.2  # of the leaky ReLUs
FEATURES = 128  # of a point after the grouping
_TARGET, _SOURCE = "target_neighbours", "source_neighbours"


class PointNorm(nn.BatchNorm1d):
    """Batch norm of each channel over all points of all clouds: (batch, n, channels)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(0, 1)).view_as(input)


class EdgeFeatures(nn.Module):
    """A linear map of [f_j - f_i, f_i] for each neighbour j of a point i (Wang et al., arXiv 1801.07829, equation 8).

    It is computed as A f_j + (B - A) f_i, so that each point is mapped once, and not once a neighbour.
    """

    def __init__(self, channels: int, out: int, bias: bool = True) -> None:
        super().__init__()
        self.map = nn.Linear(2 * channels, out, bias=bias)

    def forward(self, target: Tensor, source: Tensor, index: Tensor) -> Tensor:
        """Return (batch, n, k, out): target (batch, n, channels), source (batch, m, channels), index (batch, n, k)."""
        of_difference, of_target = self.map.weight.chunk(2, 1)
        own = F.linear(target, of_target - of_difference, self.map.bias)
        return _gathered(F.linear(source, of_difference), index) + own[:, :, None]


class EdgeConvolution(nn.Module):
    """Edge features of a point's neighbours, group norm, leaky ReLU and the maximum over the neighbours."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.edges, self.norm = EdgeFeatures(channels, out, bias=False), nn.GroupNorm(4, out)

    def forward(self, x: Tensor, source: Tensor, place: Tensor, source_place: Tensor) -> Tensor:
        """Return (batch, n, out) of x (batch, n, channels) at place (batch, n, 3), and the same of the source."""
        edges = self.edges(x, source, neighbours(place, source_place, GROUPED))
        normed: Tensor = self.norm(edges.flatten(1, 2).transpose(1, 2)).transpose(1, 2).view_as(edges)
        return F.leaky_relu(normed, SLOPE).amax(2)


class Grouping(nn.Module):
    """Turns points into fewer points with features: edge convolutions, with the first points of the order kept."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.input = nn.Linear(3, 8)
        self.layers = nn.ModuleList(
            [EdgeConvolution(8, 32), EdgeConvolution(32, 64), EdgeConvolution(64, 64), EdgeConvolution(64, FEATURES)]
        )

    def forward(self, points: Tensor) -> Tensor:
        """Return features (batch, count, 128) of the first `count` of points (batch, p, 3)."""
        middle, fewer = points[:, : 4 * self.count], points[:, : self.count]
        x = self.input(points)
        x = self.layers[0](x, x, points, points)
        x = self.layers[1](x[:, : middle.shape[1]], x, middle, points)
        x = self.layers[2](x, x, middle, middle)
        return self.layers[3](x[:, : self.count], x, fewer, middle)  # type: ignore[no-any-return]


class GeometryAware(nn.Module):
    """An attention layer whose output is merged with features of the nearest points (section 3.3).

    The neighbours' indices (batch, n, k) are among the inputs, by the name `key`.
    """

    def __init__(self, attention: nn.Module, width: int, key: str) -> None:
        super().__init__()
        self.attention, self.key = attention, key
        self.edges, self.merge = EdgeFeatures(width, width), nn.Linear(2 * width, width)

    def forward(
        self,
        x: Tensor,
        x_mask: Tensor | None = None,
        y: Tensor | None = None,
        y_mask: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return (batch, n, width): see the attention layer."""
        inputs = inputs or {}
        out = self.attention(x, x_mask, y, y_mask, inputs)
        near = F.leaky_relu(self.edges(x, x if y is None else y, inputs[self.key]), SLOPE).amax(2)
        return self.merge(torch.cat([out, near], 2))  # type: ignore[no-any-return]


class Folding(nn.Module):
    """Folds a square grid of step² points into the shape that a feature describes (Yang et al., arXiv 1712.07262)."""

    grid: Tensor  # (step², 2)

    def __init__(self, channels: int, step: int, hidden: int) -> None:
        super().__init__()
        line = torch.linspace(-1.0, 1.0, step)
        self.register_buffer("grid", torch.cartesian_prod(line, line), persistent=False)

        def fold(size: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(channels + size, hidden), PointNorm(hidden), nn.ReLU(),
                nn.Linear(hidden, hidden // 2), PointNorm(hidden // 2), nn.ReLU(),
                nn.Linear(hidden // 2, 3),
            )  # fmt: skip

        self.first, self.second = fold(2), fold(3)

    def forward(self, x: Tensor) -> Tensor:
        """Return offsets (batch, n, step², 3) of features x (batch, n, channels)."""
        points = len(self.grid)
        features = x.flatten(0, 1)[:, None].expand(-1, points, -1)
        grid = self.grid.to(x.dtype).expand(len(features), -1, -1)
        folded = self.first(torch.cat([grid, features], 2))
        return self.second(torch.cat([folded, features], 2)).view(*x.shape[:2], points, 3)  # type: ignore[no-any-return]


class PoinTr(nn.Module):
    """Gives `max_len` coarse points and `step`² points around each, from `source_len` tokens of a part of the cloud.

    `queries` says what the decoder begins with. coarse, as published: coarse points that the maximum of the encoder's
    tokens gives, with that maximum. learned: one learned vector a query, so that what is known of the cloud comes
    through the cross attention alone, and the coarse points are of the decoder's output. The first `geometric` blocks
    of encoder and decoder are geometry-aware.
    """

    def __init__(
        self,
        attention: LayerFactory,
        *,
        max_len: int,
        source_len: int,
        heads: int,
        dim: int,
        layers: int,
        encoder_layers: int,
        mlp: int,
        queries: str = "coarse",
        geometric: int = 1,
        step: int = 2,
        hidden: int = 1024,
        folding: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if queries not in QUERIES:
            raise ValueError(str(unknown("queries", queries, QUERIES)))
        width = heads * dim
        self.coarse_queries = queries == "coarse"
        self.grouping = Grouping(source_len)
        self.places, self.features = (
            nn.Sequential(nn.Linear(size, inner), PointNorm(inner), nn.LeakyReLU(SLOPE), nn.Linear(inner, width))
            for size, inner in ((3, 128), (FEATURES, width))
        )

        # learned queries have no place before they are decoded, so their blocks have no neighbours
        geometric_decoder = geometric if self.coarse_queries else 0

        def layer(slot: Slot, key: str, aware: int) -> nn.Module:
            built = attention(slot)
            return GeometryAware(built, width, key) if slot.layer < aware else built

        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for i in range(encoder_layers):
            slot = Slot(Pattern.NS, heads, dim, source_len, layer=i, layers=encoder_layers)
            self.encoder.append(EncoderBlock(layer(slot, _TARGET, geometric), width, mlp, dropout=dropout, norm="pre"))
        for i in range(layers):
            slot = Slot(Pattern.NS, heads, dim, max_len, layer=i, layers=layers)
            cross = replace(slot, pattern=Pattern.NC, source_len=source_len)
            layer_of_self, layer_of_cross = (
                layer(each, key, geometric_decoder) for each, key in ((slot, _TARGET), (cross, _SOURCE))
            )
            self.decoder.append(DecoderBlock(layer_of_self, layer_of_cross, width, mlp, dropout=dropout, norm="pre"))
        self.source_norm = nn.LayerNorm(
            width
        )  # one for all cross layers, whose projections can scale it each for itself
        if self.coarse_queries:
            self.increase = _pooled_features(width, hidden)
            self.coarse = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3 * max_len))
            self.query = nn.Sequential(
                nn.Linear(hidden + 3, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, hidden), nn.LeakyReLU(SLOPE),
                nn.Linear(hidden, width),
            )  # fmt: skip
        else:
            self.query_vectors = nn.Embedding(max_len, width)
            self.coarse = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))
        self.increase_decoded = _pooled_features(width, hidden)
        self.reduce = nn.Linear(hidden + width + 3, width)
        self.fold = Folding(width, step, folding)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return coarse points (batch, n, 3) and all points (batch, n * step², 3) of points (batch, p, 3)."""
        place = points[:, : self.grouping.count]
        x, positions = self.features(self.grouping(points)), self.places(place)
        inputs = {_TARGET: neighbours(place, place, GEOMETRIC)}
        for block in self.encoder:
            x = block(x + positions, None, inputs)
        source, coarse = self.source_norm(x), None
        if self.coarse_queries:
            pooled = self.increase(x).amax(1)
            coarse = self.coarse(pooled).view(len(x), -1, 3)
            query = self.query(torch.cat([_repeated(pooled, coarse), coarse], 2))
            inputs = {
                _TARGET: neighbours(coarse, coarse, GEOMETRIC),
                _SOURCE: neighbours(coarse, place, GEOMETRIC),
            }
        else:
            query, inputs = self.query_vectors.weight.expand(len(x), -1, -1), {}
        for block in self.decoder:
            query = block(query, None, source, None, inputs)
        coarse = self.coarse(query) if coarse is None else coarse
        pooled = self.increase_decoded(query).amax(1)
        features = self.reduce(torch.cat([_repeated(pooled, coarse), query, coarse], 2))
        return coarse, (coarse[:, :, None] + self.fold(features)).flatten(1, 2)


def _pooled_features(width: int, hidden: int) -> nn.Module:
    """Return the map before a maximum over all points."""
    return nn.Sequential(nn.Linear(width, hidden), PointNorm(hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, hidden))


def _repeated(pooled: Tensor, points: Tensor) -> Tensor:
    """Return pooled (batch, channels) once for each of points (batch, n, 3): (batch, n, channels)."""
    return pooled[:, None].expand(-1, points.shape[1], -1)


def _gathered(source: Tensor, index: Tensor) -> Tensor:
    """Return the vectors (batch, n, k, channels) of source (batch, m, channels) at index (batch, n, k)."""
    flat = index.flatten(1)[:, :, None].expand(-1, -1, source.shape[2])
    return source.gather(1, flat).view(*index.shape, -1)
