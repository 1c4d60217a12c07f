"""LRA Pathfinder (Tay et al., arXiv 2011.04006, section 2.5): does a dashed path join the two dots?

    x  0 0 12 191 ... 0     the pixels row by row, 0 to 255; `seq_len` is their number (1,024; 4,096 for 64 by 64)
    target 1                1 joined, 0 not

Images come from files in the release's layout, else they are drawn when asked for. `protocol=lra` keeps two quirks of
the released code: `zero-is-padding` (black pixels are hidden from attention) and `padding-is-pooled`.
"""

from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Missing, Pattern, Source, Task
from cab.backbones.encoder import POOLINGS, Classifier, Encoder
from cab.backbones.quirks import PoolsPadding, checked
from cab.contracts.task import Attention
from cab.data import pathfinder, pathfinder_files
from cab.data.pathfinder_tables import DIFFICULTIES, SIZES, recipe
from cab.errors import unknown

SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


class LraPathfinder(Task):
    """Pathfinder images, 32 pixels wide, with a transformer encoder."""

    slots = ("NS",)
    metrics = {"accuracy": ("fraction", True)}
    paper = "arXiv 2011.04006"
    data = (
        "pathfinder32",
        "pathfinder64",
        "pathfinder/pathfinder32",
        "pathfinder/pathfinder64",
        "lra_release/pathfinder32",
        "lra_release/pathfinder64",
        "lra_release/lra_release/pathfinder32",
        "lra_release/lra_release/pathfinder64",
    )

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        protocol: str = "clean",
        difficulty: str = "hard",
        images: int = 200_000,
        data_seed: int = 0,
        layers: int = 2,
        width: int | None = None,
        mlp: int = 128,
        dropout: float = 0.1,
        norm: str = "pre",
        positions: str = "learned",
        pooling: str = "mean",
        embedding_std: float = 1.0,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if pooling not in POOLINGS:
            raise unknown("pooling of lra_pathfinder", pooling, POOLINGS)
        if difficulty not in DIFFICULTIES:
            raise unknown("difficulty of lra_pathfinder", difficulty, DIFFICULTIES)
        self.pooling, self.cls = pooling, pooling == "cls"
        self.size = isqrt(seq_len - self.cls)
        if self.size**2 + self.cls != seq_len or self.size not in SIZES:
            accepted = ", ".join(str(size**2 + self.cls) for size in SIZES)
            raise ValueError(f"seq_len={seq_len}: images have {accepted} tokens with pooling={pooling}")
        if images < 10:
            raise ValueError(f"images={images}: at least 10 are needed, so that each split has one")
        self.as_released = checked(protocol) == "lra"
        self.difficulty, self.images, self.data_seed = difficulty, images, data_seed
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "layers": layers,
            "width": width,
            "mlp": mlp,
            "dropout": dropout,
            "norm": norm,
            "positions": positions,
            "embedding_std": embedding_std,
        }
        self.splits: dict[str, Any] = {}

    def fetch(self, folder: Path, images: int = pathfinder_files.OFFICIAL, size: int = 32) -> None:
        """Draw images into the release's layout; as many as the release has, of its size, unless told otherwise."""
        if size not in SIZES:
            raise unknown("size of lra_pathfinder", str(size), map(str, SIZES))
        pathfinder_files.write(folder, size, self.difficulty, images, self.data_seed)

    def source(self, folder: Path) -> Source | Missing:
        """Take files in the release's layout, in their order, else images that are drawn when asked for."""
        tree = pathfinder_files.find(folder, self.size, self.difficulty)
        name = f"pathfinder{self.size} {self.difficulty}"
        if tree is None:
            wanted = recipe(self.size, self.difficulty)
            for split, (start, count) in _shares(self.images).items():
                self.splits[split] = pathfinder.Drawn(self.data_seed, start, count, wanted)
            counts = {split: len(images) for split, images in self.splits.items()}
            return Source(f"{name}, generated, seed {self.data_seed}", False, counts, "nothing is stored")
        rows = pathfinder_files.read_metadata(tree)
        for split, (start, count) in _shares(len(rows)).items():
            self.splits[split] = pathfinder_files.Filed(tree, self.size, rows[start : start + count])
        counts = {split: len(images) for split, images in self.splits.items()}
        made = pathfinder_files.made(tree)
        whole = not made and len(rows) >= pathfinder_files.OFFICIAL - 1  # less the empty one
        drawn = f", generated with seed {made['seed']}" if made else ""
        return Source(name + drawn, whole, counts, f"{len(rows):,} images in {tree}")

    def split(self, name: str, seed: int) -> Any:
        """Return a split of what `source` found; no split depends on the seed."""
        if name not in self.splits:
            raise unknown("split", name, SHARES, "" if self.splits else "Call source(folder) first.")
        return self.splits[name]

    def collate(self, examples: Sequence[Any], trim: bool = False) -> Batch:
        """Stack; nothing is padded."""
        x = torch.from_numpy(np.stack([pixels for pixels, _ in examples]).astype(np.int64))
        return Batch(x, x > 0 if self.as_released else None, target=torch.tensor([label for _, label in examples]))

    def model(self, attention: Attention) -> nn.Module:
        """Build the encoder and a head with one hidden layer as wide as the feed-forward ones."""
        encoder = Encoder(attention, Pattern.NS, vocabulary=256, max_len=self.seq_len, cls=self.cls, **self.sizes)
        kind = PoolsPadding if self.as_released else Classifier
        return kind(encoder, classes=2, hidden=self.sizes["mlp"], pooling=self.pooling)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(batch.x, batch.x_mask, batch.inputs).float(), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """1 where the likelier class is right."""
        chosen = model(batch.x, batch.x_mask, batch.inputs).argmax(-1)
        return {"accuracy": (chosen == batch.target).float()}

    def floors(self) -> dict[str, dict[str, float]]:
        """Chance, and test accuracy of the class that is commoner in training."""
        common = self.split("train", 0).labels().mean() > 0.5
        return {
            "chance": {"accuracy": 0.5},
            "majority class": {"accuracy": float((self.split("test", 0).labels() == common).mean())},
        }


def _shares(count: int) -> dict[str, tuple[int, int]]:
    """Return where each split begins and how long it is: 80, 10 and 10 % in the order of the images."""
    ends = {name: (int(first * count), int(last * count)) for name, (first, last) in SHARES.items()}
    return {name: (first, last - first) for name, (first, last) in ends.items()}
