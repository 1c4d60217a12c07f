"""Tasks whose examples are read from the data folder."""

from typing import Any

from cab.contracts.task import Task
from cab.errors import unknown


class RealDataTask(Task):
    """A task sets `splits` in `source`: name -> examples. They do not depend on the seed."""

    def __init__(self, *, seq_len: int, source_len: int | None = None) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        self.splits: dict[str, Any] = {}

    def counts(self) -> dict[str, int]:
        """Return the number of examples of each split."""
        return {name: len(self.splits[name]) for name in ("train", "validation", "test")}

    def split(self, name: str, seed: int) -> Any:
        """Return a split of the data that `source` found; it does not depend on the seed."""
        if name not in self.splits:
            raise unknown("split", name, self.splits, "" if self.splits else "Call source(folder) first.")
        return self.splits[name]

    def spread(self, name: str, most: int) -> list[Any]:
        """Return at most `most` examples of a split, evenly spread, the first among them."""
        examples = self.split(name, 0)
        return [examples[i] for i in range(0, len(examples), max(1, -(-len(examples) // most)))]
