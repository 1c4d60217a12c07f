"""LRA Retrieval (Tay et al., arXiv 2011.04006, section 2.3): does one document refer to the other? Byte by byte.

    x  85 105 106 116  0     a document: each byte + 1; 0 is padding; 257 ids in all; `seq_len` tokens
    y  66  33 119  0   0     the other document, which the same encoder reads separately
    target 1                 1 linked, 0 not linked

The documents are papers of the ACL Anthology Network in the release's files. Without these they are manual pages,
linked by their SEE ALSO; that is another task and is marked so. The head reads both vectors, their product and their
difference, as in the paper. `protocol=lra` has two quirks of the released code: `no-interaction` (the head reads the
two vectors alone) and `padding-is-pooled`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from cab import Batch, Missing, Source
from cab.backbones.two_tower import TwoTower
from cab.contracts.task import LayerFactory
from cab.data import aan, manpages
from cab.suites.classification import Classification, targets
from cab.suites.floors import histograms, majority_accuracy, ridge_accuracy, root_frequencies

COMMAND = "cab data get lra_retrieval"
FLOOR_PAIRS = 10_000  # most pairs of a split that the ridge regression reads


class LraRetrieval(Classification):
    """Whether two documents are linked, from their bytes, with one transformer encoder for both."""

    vocabulary = 257
    data = ("aan", "tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data", "manpages")

    def fetch(self, folder: Path) -> None:
        """Make pairs of manual pages from Debian packages, 9 MB, which apt downloads."""
        manpages.fetch(folder, aan.FILES)

    def source(self, folder: Path) -> Source | Missing:
        """Use the release's files in `folder`; without them, the pairs of manual pages that `fetch` made there."""
        release = aan.find(folder)
        tree = release or aan.find(folder, (manpages.FOLDER,))
        if tree is None:
            return Missing(f"{COMMAND} (manual pages), or put LRA's new_aan_pairs.*.tsv into {folder / aan.FOLDERS[0]}")
        self.splits = {name: aan.Pairs(tree / file, self.max_tokens) for name, file in aan.FILES.items()}
        counts = self.counts()
        if release is not None:
            return Source("AAN", counts == aan.OFFICIAL, counts, f"the release's files in {release}")
        record = json.loads((tree / manpages.MARKER).read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
        return Source("manual pages", False, counts, f"Debian's {versions}; no page is in two splits")

    def ids(self, content: bytes) -> Any:
        """Return each byte + 1."""
        return np.frombuffer(content, np.uint8).astype(np.int64) + 1

    def collate(self, examples: Sequence[Any], trim: bool = False) -> Batch:
        """Pad both documents with 0 to the same length."""
        x, y = self.pad([pair[i] for i in (0, 1) for pair, _ in examples], trim).chunk(2)
        return Batch(x, x > 0, y, y > 0, targets(examples))

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build the encoder, and a head with two hidden layers, the first of the feed-forward networks' size."""
        return TwoTower(
            self.encoder(attention),
            classes=self.classes,
            hidden=self.sizes["mlp"],
            pooling=self.pooling,
            interaction=not self.as_released,
            pools_padding=self.as_released,
        )

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the model's logits (batch, classes) of both documents."""
        return model(batch.x, batch.x_mask, batch.y, batch.y_mask, batch.inputs)

    def floors(self) -> dict[str, dict[str, float]]:
        """Return chance, and the accuracies of the majority class and of a ridge regression on byte frequencies."""
        train, test = self.split("train", 0), self.split("test", 0)
        return {
            "chance": {"accuracy": 0.5},
            "majority class": {"accuracy": majority_accuracy(train.labels, test.labels)},
            "byte frequencies": {"accuracy": ridge_accuracy(_features(train), _features(test))},
        }


def _features(split: aan.Pairs) -> tuple[Any, Any]:
    """Return, for each pair, the products and differences of its documents' byte frequencies, and the labels."""
    pairs = [split[i] for i in range(min(len(split), FLOOR_PAIRS))]
    a, b = (root_frequencies(histograms(np.frombuffer(pair[i], np.uint8) for pair, _ in pairs)) for i in (0, 1))
    return np.concatenate([a * b, abs(a - b)], 1), np.array([label for _, label in pairs])
