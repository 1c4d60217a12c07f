"""Pairs of documents in the layout of LRA's Retrieval (AAN, Radev et al., 2013): new_aan_pairs.{train,eval,test}.tsv.

Five columns, label, two ids and two texts, between tabs: no header and no quoting, and the label is written as a
float. The files are large, so their rows are found once and read when asked for.
"""

from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from cab.errors import UsageError

FILES = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
OFFICIAL = {"train": 147_086, "validation": 18_090, "test": 17_437}
PLACES = ("aan", "tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data")
_LABELS = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}


class Pairs:
    """A split: item i is ((bytes, bytes), label), the bytes cut to `most`."""

    def __init__(self, file: Path, most: int) -> None:
        starts, sizes, labels = _index(file)
        self.starts, self.labels, self.most = starts, labels, most
        self.sizes = np.minimum(sizes, most)
        self.lengths = self.sizes.max(1)
        with file.open("rb") as opened:
            self._rows = mmap(opened.fileno(), 0, access=ACCESS_READ)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[tuple[bytes, bytes], int]:
        first, second = (self._text(index, which) for which in (0, 1))
        return (first, second), int(self.labels[index])

    def _text(self, index: int, which: int) -> bytes:
        start = int(self.starts[index, which])
        return self._rows[start : start + int(self.sizes[index, which])]


def find(folder: Path, places: tuple[str, ...] = PLACES) -> Path | None:
    """Return where in `folder` the three files are, or None; `UsageError` where some are missing."""
    for place in places:
        missing = [name for name in FILES.values() if not (folder / place / name).is_file()]
        if not missing:
            return folder / place
        if (folder / place).exists():
            raise UsageError(f"{folder / place} has no {', '.join(missing)}. Complete it, or move it away.")
    return None


def _index(file: Path) -> tuple[Any, Any, Any]:
    """Find where each row's two texts begin and how long they are, and its label."""
    starts: list[tuple[int, int]] = []
    sizes: list[tuple[int, int]] = []
    labels: list[int] = []
    at = 0
    with file.open("rb") as opened:
        for row in opened:
            columns = row.removesuffix(b"\n").removesuffix(b"\r").split(b"\t")
            wrong = len(columns) != 5 or columns[0] not in _LABELS or not columns[3] or not columns[4]
            if wrong or not row.endswith(b"\n"):
                raise UsageError(
                    f"{file} cannot be read after {len(labels):,} rows: line {len(labels) + 1} is not a label (0 or "
                    "1), two ids, two texts and the end of a line, with tabs between. It is truncated or damaged."
                )
            ids = sum(len(column) + 1 for column in columns[:3])
            starts.append((at + ids, at + ids + len(columns[3]) + 1))
            sizes.append((len(columns[3]), len(columns[4])))
            labels.append(_LABELS[columns[0]])
            at += len(row)
    if not labels:
        raise UsageError(f"{file} is empty. Bring it again.")
    return np.array(starts), np.array(sizes), np.array(labels)
