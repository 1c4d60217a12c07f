"""Pathfinder images of any published size: what `lra_pathfinder` and `lra_pathx` share.

Images come from files in the release's layout, else they are drawn when asked for.
"""

from math import isqrt
from pathlib import Path
from typing import ClassVar

from cab.contracts.task import Missing, Source
from cab.data import pathfinder, pathfinder_files
from cab.data.pathfinder_tables import DIFFICULTIES, SIZES, recipe
from cab.errors import unknown
from cab.suites.floors import majority
from cab.suites.pixels import PixelClassification

SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


class Pathfinder(PixelClassification):
    """`seq_len` is the number of pixels (one more with a class token); `usual` the width that `fetch` draws."""

    usual: ClassVar[int]

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
        super().__init__(
            seq_len=seq_len, source_len=source_len, heads=heads, dim=dim, protocol=protocol, layers=layers, width=width,
            mlp=mlp, dropout=dropout, norm=norm, positions=positions, pooling=pooling, embedding_std=embedding_std,
        )  # fmt: skip
        if difficulty not in DIFFICULTIES:
            raise unknown("difficulty", difficulty, DIFFICULTIES)
        self.size = isqrt(self.room)
        if self.size**2 != self.room or self.size not in SIZES:
            accepted = ", ".join(str(size**2 + self.cls) for size in SIZES)
            raise ValueError(f"seq_len={seq_len}: images have {accepted} tokens with pooling={pooling}")
        if images < 10:
            raise ValueError(f"images={images}: at least 10 are needed, so that each split has one")
        self.difficulty, self.images, self.data_seed = difficulty, images, data_seed

    def fetch(
        self,
        folder: Path,
        *,
        images: int = pathfinder_files.OFFICIAL,
        size: int | None = None,
        difficulty: str | None = None,
    ) -> None:
        """Draw images into the release's layout; as many as the release has, of its size, unless told otherwise."""
        size, difficulty = size or self.usual, difficulty or self.difficulty
        if size not in SIZES:
            raise unknown("size", str(size), map(str, SIZES))
        if difficulty not in DIFFICULTIES:
            raise unknown("difficulty", difficulty, DIFFICULTIES)
        pathfinder_files.write(folder, size, difficulty, images, self.data_seed)

    def source(self, folder: Path) -> Source | Missing:
        """Take files in the release's layout, in their order, else images that are drawn when asked for."""
        tree = pathfinder_files.find(folder, self.size, self.difficulty)
        name = f"pathfinder{self.size} {self.difficulty}"
        if tree is None:
            wanted = recipe(self.size, self.difficulty)
            for split, (start, count) in _shares(self.images).items():
                self.splits[split] = pathfinder.Drawn(self.data_seed, start, count, wanted)
            return Source(f"{name}, generated, seed {self.data_seed}", False, self.counts(), "nothing is stored")
        rows = pathfinder_files.read_metadata(tree)
        for split, (start, count) in _shares(len(rows)).items():
            self.splits[split] = pathfinder_files.Filed(tree, self.size, rows[start : start + count])
        made = pathfinder_files.made(tree)
        whole = not made and len(rows) >= pathfinder_files.OFFICIAL - 1  # less the empty one
        drawn = f", generated with seed {made['seed']}" if made else ""
        return Source(name + drawn, whole, self.counts(), f"{len(rows):,} images in {tree}")

    def floors(self) -> dict[str, dict[str, float]]:
        """Chance, and test accuracy of the class that is commoner in training."""
        train, test = (self.split(name, 0).labels() for name in ("train", "test"))
        return {"chance": {"accuracy": 0.5}, "majority class": {"accuracy": majority(train, test)}}


def _shares(count: int) -> dict[str, tuple[int, int]]:
    """Return where each split begins and how long it is: 80, 10 and 10 % in the order of the images."""
    ends = {name: (int(first * count), int(last * count)) for name, (first, last) in SHARES.items()}
    return {name: (first, last - first) for name, (first, last) in ends.items()}
