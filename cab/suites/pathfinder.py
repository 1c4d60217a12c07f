"""Pathfinder images of any published size: what `lra_pathfinder` and `lra_pathx` share.

Images come from files in the release's layout; without such files, each is generated when it is read.
"""

from math import isqrt
from pathlib import Path
from typing import ClassVar

from cab.contracts.task import Missing, Source
from cab.data import pathfinder, pathfinder_files
from cab.data.pathfinder_tables import DIFFICULTIES, SIZES, published_parameters
from cab.errors import unknown
from cab.suites.floors import majority_accuracy
from cab.suites.pixels import PixelClassification

SPLIT_BOUNDS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


class Pathfinder(PixelClassification):
    """`seq_len` is the number of pixels, and one more with a class token."""

    fetched_size: ClassVar[int]  # the width in pixels of the images that `fetch` generates by default

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        protocol: str = "clean",
        raster: bool = False,
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
            seq_len=seq_len, source_len=source_len, heads=heads, dim=dim, protocol=protocol, raster=raster,
            layers=layers, width=width, mlp=mlp, dropout=dropout, norm=norm, positions=positions, pooling=pooling,
            embedding_std=embedding_std,
        )  # fmt: skip
        if difficulty not in DIFFICULTIES:
            raise unknown("difficulty", difficulty, DIFFICULTIES)
        self.size = isqrt(self.max_tokens)
        if self.size**2 != self.max_tokens or self.size not in SIZES:
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
        """Generate images in the release's layout; by default as many as the release has, of its size."""
        size, difficulty = size or self.fetched_size, difficulty or self.difficulty
        if size not in SIZES:
            raise unknown("size", str(size), map(str, SIZES))
        if difficulty not in DIFFICULTIES:
            raise unknown("difficulty", difficulty, DIFFICULTIES)
        pathfinder_files.write(folder, size, difficulty, images, self.data_seed)

    def source(self, folder: Path) -> Source | Missing:
        """Use the files in the release's layout, in their order; without any, generated images."""
        tree = pathfinder_files.find(folder, self.size, self.difficulty)
        name = f"pathfinder{self.size} {self.difficulty}"
        if tree is None:
            parameters = published_parameters(self.size, self.difficulty)
            for split, (start, count) in _split_ranges(self.images).items():
                self.splits[split] = pathfinder.GeneratedImages(self.data_seed, start, count, parameters)
            return Source(f"{name}, generated, seed {self.data_seed}", False, self.counts(), "nothing is stored")
        rows = pathfinder_files.read_metadata(tree)
        for split, (start, count) in _split_ranges(len(rows)).items():
            self.splits[split] = pathfinder_files.StoredImages(tree, self.size, rows[start : start + count])
        record = pathfinder_files.generation_record(tree)
        complete_release = not record and len(rows) >= pathfinder_files.OFFICIAL - 1  # one image of it is empty
        origin = f", generated with seed {record['seed']}" if record else ""
        return Source(name + origin, complete_release, self.counts(), f"{len(rows):,} images in {tree}")

    def floors(self) -> dict[str, dict[str, float]]:
        """Return chance, and the test accuracy of the class that is more frequent in training."""
        train, test = (self.split(name, 0).labels() for name in ("train", "test"))
        return {"chance": {"accuracy": 0.5}, "majority class": {"accuracy": majority_accuracy(train, test)}}


def _split_ranges(count: int) -> dict[str, tuple[int, int]]:
    """Return the first image and the number of images of each split: 80, 10 and 10 % in their order."""
    ends = {name: (int(first * count), int(last * count)) for name, (first, last) in SPLIT_BOUNDS.items()}
    return {name: (first, last - first) for name, (first, last) in ends.items()}
