"""LRA ListOps (Tay et al., arXiv 2011.04006, section 2.1): what is a nested expression of list operations worth?

    x  12 5 11 3 4 15 2 15 0 0     [MAX 4 [MIN 2 3 ] 1 ] : digits 1 to 10, operators 11 to 14, bracket 15, padding 0
    target 4                       one of 10

`protocol=lra` has two quirks of the released code: `padding-is-pooled` (where pooling is mean or max) and
`unknown-word` (an id for words outside the vocabulary, which never occurs). Everything else of the release is in
`scale=paper`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cab import Missing, Source
from cab.data import listops
from cab.errors import unknown
from cab.suites.classification import Classification
from cab.suites.floors import majority_accuracy

Example = tuple[Any, int]  # token ids (uint8), value


class Expressions:
    """A split: item i is (token ids, value), the ids cut to `max_tokens`."""

    def __init__(self, examples: listops.Examples, max_tokens: int) -> None:
        self.examples, self.max_tokens = examples, max_tokens
        self.lengths = np.minimum(np.diff(examples.ends, prepend=0), max_tokens)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int, /) -> Example:
        tokens, value = self.examples[index]
        return tokens[: self.max_tokens], value


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
        self.parameters, self.data_seed = listops.Parameters(shortest, longest), data_seed
        self._load: Callable[[str], listops.Examples] | None = None  # by the name of a split

    def fetch(self, folder: Path, *, layout: str = "release") -> None:
        """Generate the release's three files with the published parameters, 660 MB, in seconds."""
        if layout != "release":
            raise unknown("layout", layout, ("release",))
        listops.write(folder, self.data_seed)

    def source(self, folder: Path) -> Source | Missing:
        """Use the release's files in `folder`; without them, or with unpublished parameters, generate the examples."""
        tree = listops.find(folder) if self.parameters == listops.Parameters() else None
        if tree is None:
            self._load = self._generate
            shortest, longest = self.parameters.shortest, self.parameters.longest
            note = f"lengths between {shortest:,} and {longest:,} tokens; nothing is stored"
            return Source(f"generated, seed {self.data_seed}", False, dict(listops.OFFICIAL), note)
        record = listops.generation_record(tree)
        self._load = lambda name: listops.read(tree / listops.FILES[name])
        # counting the lines of a file is as slow as reading it, so the record's counts are used where there is one
        counts = record["counts"] if record else {name: len(self._read(name)) for name in listops.FILES}
        name = f"{tree.name}, generated with seed {record['seed']}" if record else tree.name
        return Source(name, not record and counts == listops.OFFICIAL, counts, f"the release's layout in {tree}")

    def _generate(self, name: str) -> listops.Examples:
        first = {"train": 0, "validation": 96_000, "test": 98_000}[name]
        return listops.generate(self.data_seed, first, listops.OFFICIAL[name], self.parameters)

    def _read(self, name: str) -> Expressions:
        assert self._load is not None
        expressions = self.splits[name] = Expressions(self._load(name), self.max_tokens)
        return expressions

    def split(self, name: str, seed: int) -> Expressions:
        """Return a split of the data that `source` found; it does not depend on the seed."""
        if name not in listops.FILES or self._load is None:
            raise unknown("split", name, listops.FILES, "" if self._load else "Call source(folder) first.")
        return self.splits[name] if name in self.splits else self._read(name)

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the accuracies of the most frequent value, and of the most frequent value for the first operator."""
        train, test = (self.split(name, 0).examples for name in ("train", "test"))
        table = np.zeros((len(listops.NAMES), 10), np.int64)  # how often each value has each first token
        np.add.at(table, (_first_tokens(train), train.values), 1)
        predicted = table.argmax(1)[_first_tokens(test)]
        return {
            "majority class": {"accuracy": majority_accuracy(train.values, test.values)},
            "first operator": {"accuracy": float((test.values == predicted).mean())},
        }


def _first_tokens(examples: listops.Examples) -> Any:
    return examples.tokens[np.concatenate([[0], examples.ends[:-1]])]
