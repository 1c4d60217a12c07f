"""LRA Retrieval (Tay et al., arXiv 2011.04006, section 2.3): does one document refer to the other? Byte by byte.

    x  85 105 106 116  0     a document: each byte + 1; 0 is padding; 257 ids in all; `seq_len` tokens
    y  66  33 119  0   0     the other one, read apart by the same encoder
    target 1                 1 linked, 0 not

Papers of the ACL Anthology Network in the release's files, else manual pages and their SEE ALSO, which are something
else and marked so. The head sees both vectors, their product and their difference, as the paper says; `protocol=lra`
keeps two quirks of the released code: `no-interaction` (the two vectors alone) and `padding-is-pooled`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from cab import Batch, Missing, Source
from cab.backbones.two_tower import TwoTower
from cab.contracts.task import Attention
from cab.data import aan, manpages
from cab.suites.classification import Classification, targets
from cab.suites.floors import frequencies, histograms, majority, ridge

COMMAND = "cab data get lra_retrieval"
MOST = 10_000  # training pairs that a floor reads


class LraRetrieval(Classification):
    """Linked documents from bytes, with one transformer encoder for both."""

    vocabulary = 257
    data = ("aan", "tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data", "manpages")

    def fetch(self, folder: Path) -> None:
        """Make pairs of manual pages out of Debian's packages, 9 MB, fetched through apt."""
        manpages.fetch(folder, aan.FILES)

    def source(self, folder: Path) -> Source | Missing:
        """Take the release's files, else the pairs of manual pages that `fetch` made."""
        place = aan.find(folder)
        made = aan.find(folder, (manpages.FOLDER,)) if place is None else None
        if place is None and made is None:
            where = f"{folder / aan.PLACES[0]}"
            return Missing(f"{COMMAND} (manual pages), or put LRA's new_aan_pairs.*.tsv into {where}")
        self.splits = {name: aan.Pairs((place or made) / file, self.room) for name, file in aan.FILES.items()}
        counts = self.counts()
        if place is not None:
            return Source("AAN", counts == aan.OFFICIAL, counts, f"the release's files in {place}")
        about = json.loads((made / manpages.MARK).read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
        return Source("manual pages", False, counts, f"Debian's {versions}; no page is in two splits")

    def ids(self, content: bytes) -> Any:
        """Shift each byte by one."""
        return np.frombuffer(content, np.uint8).astype(np.int64) + 1

    def collate(self, examples: Sequence[Any], trim: bool = False) -> Batch:
        """Pad both documents with 0, to one length."""
        x, y = self.padded([pair[i] for i in (0, 1) for pair, _ in examples], trim).chunk(2)
        return Batch(x, x > 0, y, y > 0, targets(examples))

    def model(self, attention: Attention) -> nn.Module:
        """Build the encoder and a head with two hidden layers, as wide as the feed-forward ones and half as wide."""
        return TwoTower(
            self.encoder(attention),
            classes=self.classes,
            hidden=self.sizes["mlp"],
            pooling=self.pooling,
            interaction=not self.as_released,
            pools_padding=self.as_released,
        )

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Let the model read both documents."""
        return model(batch.x, batch.x_mask, batch.y, batch.y_mask, batch.inputs)

    def floors(self) -> dict[str, dict[str, float]]:
        """Chance, the commoner class, and ridge regression on how alike the two frequencies of each byte are."""
        train, test = self.split("train", 0), self.split("test", 0)
        (a, labels), (b, test_labels) = (_alike(split) for split in (train, test))
        return {
            "chance": {"accuracy": 0.5},
            "majority class": {"accuracy": majority(train.labels, test.labels)},
            "byte frequencies": {"accuracy": ridge((a, labels), (b, test_labels))},
        }


def _alike(split: aan.Pairs) -> tuple[Any, Any]:
    pairs = [split[i] for i in range(min(len(split), MOST))]
    a, b = (frequencies(histograms(np.frombuffer(pair[i], np.uint8) for pair, _ in pairs)) for i in (0, 1))
    return np.concatenate([a * b, abs(a - b)], 1), np.array([label for _, label in pairs])
