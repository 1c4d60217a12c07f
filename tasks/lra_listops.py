"""LRA ListOps (Tay et al., arXiv 2011.04006, section 2.1): what is a nested expression of list operations worth?

    x  12 5 11 3 4 15 2 15 0 0     [MAX 4 [MIN 2 3 ] 1 ] : digits 1 to 10, operators 11 to 14, bracket 15, padding 0
    target 4                       one of 10

`protocol=lra` keeps two quirks of the released code: `padding-is-pooled` (where pooling is mean or max) and
`unknown-word` (an id for words outside the vocabulary, of which there are none). Everything else of it is in
`scale=paper`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from cab import Missing, Source
from cab.data import listops
from cab.errors import unknown
from cab.suites.classification import Classification
from cab.suites.floors import majority

Example = tuple[Any, int]  # token ids (uint8), value


class Expressions:
    """A split: item i is (token ids, value), the ids cut to `most`."""

    def __init__(self, examples: listops.Examples, most: int) -> None:
        self.examples, self.most = examples, most
        self.lengths = np.minimum(np.diff(examples.ends, prepend=0), most)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int, /) -> Example:
        tokens, value = self.examples[index]
        return tokens[: self.most], value


class LraListops(Classification):
    """Values of nested list operations, with a transformer encoder."""

    classes = 10
    data = ("listops-1000", "listops", "lra_release/listops-1000", "lra_release/lra_release/listops-1000")

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        protocol: str = "clean",
        shortest: int = 500,
        longest: int = 2000,
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
        self.vocabulary = len(listops.NAMES) + self.as_released
        self.recipe, self.data_seed = listops.Recipe(shortest, longest), data_seed
        self._load: Any = None

    def fetch(self, folder: Path, *, layout: str = "release") -> None:
        """Generate the release's three files after the published parameters, 660 MB, in seconds."""
        if layout != "release":
            raise unknown("layout", layout, ("release",))
        listops.write(folder, self.data_seed)

    def source(self, folder: Path) -> Source | Missing:
        """Take the release's files where `folder` has them and the published lengths are asked for, else generate."""
        place = listops.find(folder) if self.recipe == listops.Recipe() else None
        if place is None:
            self._load = self._generated
            note = f"lengths between {self.recipe.shortest:,} and {self.recipe.longest:,} tokens; nothing is stored"
            return Source(f"generated, seed {self.data_seed}", False, dict(listops.OFFICIAL), note)
        made = listops.made(place)
        self._load = lambda name: listops.read(place / listops.FILES[name])
        # counting lines is as slow as reading: what we wrote says how many there are
        counts = made["counts"] if made else {name: len(self._read(name)) for name in listops.FILES}
        name = f"{place.name}, generated with seed {made['seed']}" if made else place.name
        return Source(name, not made and counts == listops.OFFICIAL, counts, f"the release's layout in {place}")

    def _generated(self, name: str) -> listops.Examples:
        first = {"train": 0, "validation": 96_000, "test": 98_000}[name]
        return listops.generate(self.data_seed, first, listops.OFFICIAL[name], self.recipe)

    def _read(self, name: str) -> Expressions:
        self.splits[name] = Expressions(self._load(name), self.room)
        return self.splits[name]

    def split(self, name: str, seed: int) -> Expressions:
        """Return a split of what `source` found; no split depends on the seed."""
        if name not in listops.FILES or self._load is None:
            raise unknown("split", name, listops.FILES, "" if self._load else "Call source(folder) first.")
        return self.splits[name] if name in self.splits else self._read(name)

    def floors(self) -> dict[str, dict[str, float]]:
        """Test accuracy of the commonest value, and of the commonest one after the same first operator."""
        train, test = (self.split(name, 0).examples for name in ("train", "test"))
        table = np.zeros((len(listops.NAMES), 10), np.int64)
        np.add.at(table, (_first(train), train.values), 1)
        rule = table.argmax(1)[_first(test)]
        return {
            "majority class": {"accuracy": majority(train.values, test.values)},
            "first operator": {"accuracy": float((test.values == rule).mean())},
        }


def _first(examples: listops.Examples) -> Any:
    return examples.tokens[np.concatenate([[0], examples.ends[:-1]])]
