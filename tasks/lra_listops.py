"""LRA ListOps (Tay et al., arXiv 2011.04006, section 2.1): what is a nested expression of list operations worth?

    x  12 5 11 3 4 15 2 15 0 0     [MAX 4 [MIN 2 3 ] 1 ] : digits 1 to 10, operators 11 to 14, bracket 15, padding 0
    target 4                       one of 10

`protocol=lra` keeps two quirks of the released code: `padding-is-pooled` (where pooling is mean or max) and
`unknown-word` (an id for words outside the vocabulary, of which there are none). Everything else of it is in
`scale=paper`.
"""

from collections.abc import Sequence
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
from cab.data import listops
from cab.errors import unknown

MULTIPLE = 64  # trimmed batches have a multiple of this many tokens, so that few shapes occur
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


class LraListops(Task):
    """Values of nested list operations, with a transformer encoder."""

    slots = ("NS",)
    metrics = {"accuracy": ("fraction", True)}
    paper = "arXiv 2011.04006"
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
        super().__init__(seq_len=seq_len, source_len=source_len)
        if pooling not in POOLINGS:
            raise unknown("pooling of lra_listops", pooling, POOLINGS)
        self.pooling, self.cls = pooling, pooling == "cls"
        if seq_len <= self.cls:
            raise ValueError(f"seq_len={seq_len}: with a class token at least 2 are needed")
        self.as_released = checked(protocol) == "lra"
        self.recipe, self.data_seed = listops.Recipe(shortest, longest), data_seed
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
        self.splits: dict[str, Expressions] = {}
        self._load: Any = None

    def fetch(self, folder: Path, layout: str = "release") -> None:
        """Generate the release's three files after the published parameters, 660 MB, in seconds."""
        if layout != "release":
            raise unknown("layout of lra_listops", layout, ("release",))
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
        self.splits[name] = Expressions(self._load(name), self.seq_len - self.cls)
        return self.splits[name]

    def split(self, name: str, seed: int) -> Expressions:
        """Return a split of what `source` found; no split depends on the seed."""
        if name not in listops.FILES or self._load is None:
            raise unknown("split", name, listops.FILES, "" if self._load else "Call source(folder) first.")
        return self.splits[name] if name in self.splits else self._read(name)

    def collate(self, examples: Sequence[Example], trim: bool = False) -> Batch:
        """Pad with 0."""
        length = self.seq_len
        if trim and not (self.as_released and not self.cls):  # pooled padding counts, so there must be all of it
            longest = max(len(tokens) for tokens, _ in examples) + self.cls
            length = min(length, -(-longest // MULTIPLE) * MULTIPLE)
        x = np.zeros((len(examples), length - self.cls), dtype=np.int64)
        for row, (tokens, _) in zip(x, examples, strict=True):
            row[: len(tokens)] = tokens
        ids = torch.from_numpy(x)
        return Batch(ids, ids > 0, target=torch.tensor([value for _, value in examples]))

    def model(self, attention: Attention) -> nn.Module:
        """Build the encoder and a head with one hidden layer as wide as the feed-forward ones."""
        vocabulary = len(listops.NAMES) + self.as_released
        encoder = Encoder(
            attention, Pattern.NS, vocabulary=vocabulary, max_len=self.seq_len, cls=self.cls, **self.sizes
        )
        kind = PoolsPadding if self.as_released else Classifier
        return kind(encoder, classes=10, hidden=self.sizes["mlp"], pooling=self.pooling)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(batch.x, batch.x_mask, batch.inputs).float(), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """1 where the likeliest value is right."""
        chosen = model(batch.x, batch.x_mask, batch.inputs).argmax(-1)
        return {"accuracy": (chosen == batch.target).float()}

    def floors(self) -> dict[str, dict[str, float]]:
        """Test accuracy of the commonest value, and of the commonest one after the same first operator."""
        train, test = (self.split(name, 0).examples for name in ("train", "test"))
        table = np.zeros((len(listops.NAMES), 10), np.int64)
        np.add.at(table, (_first(train), train.values), 1)
        rule = table.argmax(1)[_first(test)]
        return {
            "majority class": {"accuracy": float((test.values == table.sum(0).argmax()).mean())},
            "first operator": {"accuracy": float((test.values == rule).mean())},
        }


def _first(examples: listops.Examples) -> Any:
    return examples.tokens[np.concatenate([[0], examples.ends[:-1]])]
