"""Tasks whose examples are generated when they are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from cab.contracts.task import Source, Task
from cab.data.generated_split import GeneratedSplit
from cab.errors import unknown


class GeneratedTask(Task):
    """A task sets `counts`, the number of examples of each split, and `difficulties`, as many as it has.

    Training has examples of all difficulties. Validation and test have one difficulty, that of index `evaluated`.
    """

    metrics = {"accuracy": ("fraction", True)}
    evaluated: ClassVar[int] = -1
    difficulties: Sequence[int]
    counts: dict[str, int]

    def source(self, folder: Path) -> Source:
        """Name the source "generated": nothing is read from `folder`."""
        return Source("generated", comparable=False, counts=self.counts)

    def split(self, name: str, seed: int) -> GeneratedSplit:
        """Return a split of (number, difficulty), which `collate` generates the examples from."""
        if name not in self.counts:
            raise unknown("split", name, self.counts)
        difficulties = self.difficulties if name == "train" else [self.difficulties[self.evaluated]]
        return GeneratedSplit(seed, name, self.counts[name], difficulties)
