"""Pairs of documents in the layout of LRA's Retrieval (AAN, Radev et al., 2013): new_aan_pairs.{train,eval,test}.tsv.

A row has five columns between tabs: a label, two ids and two texts. There is no header and no quoting, and the label is
written as a float. The files are large: they are indexed once, and a text is read when it is needed.
"""

from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from cab.data.find_files import find_files
from cab.errors import UsageError

FILES = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
OFFICIAL = {"train": 147_086, "validation": 18_090, "test": 17_437}  # pairs of the release
FOLDERS = ("aan", "tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data")
_LABELS = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}


class Pairs:
    """A split: item i is ((bytes, bytes), label), each text cut to `max_bytes`."""

    def __init__(self, file: Path, max_bytes: int) -> None:
        self.starts, sizes, self.labels = _index(file)
        self.sizes = np.minimum(sizes, max_bytes)
        self.lengths = self.sizes.max(1)
        with file.open("rb") as opened:
            self._content = mmap(opened.fileno(), 0, access=ACCESS_READ)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[tuple[bytes, bytes], int]:
        first, second = (self._text(index, column) for column in (0, 1))
        return (first, second), int(self.labels[index])

    def _text(self, index: int, column: int) -> bytes:
        start = int(self.starts[index, column])
        return self._content[start : start + int(self.sizes[index, column])]


def find(folder: Path, subfolders: tuple[str, ...] = FOLDERS) -> Path | None:
    """Return the subfolder of `folder` that has the three files, or None; `UsageError` where it lacks some."""
    return find_files(folder, subfolders, tuple(FILES.values()))


def _index(file: Path) -> tuple[Any, Any, Any]:
    """Return the byte offsets (rows, 2) and sizes (rows, 2) of the texts, and the labels (rows,)."""
    starts: list[tuple[int, int]] = []
    sizes: list[tuple[int, int]] = []
    labels: list[int] = []
    row_start = 0
    with file.open("rb") as opened:
        for row in opened:
            columns = row.removesuffix(b"\n").removesuffix(b"\r").split(b"\t")
            invalid = len(columns) != 5 or columns[0] not in _LABELS or not columns[3] or not columns[4]
            if invalid or not row.endswith(b"\n"):
                raise UsageError(
                    f"{file} cannot be read after {len(labels):,} rows: line {len(labels) + 1} is not a label (0 or "
                    "1), two ids, two texts and the end of a line, with tabs between. It is truncated or damaged."
                )
            first_text = row_start + sum(len(column) + 1 for column in columns[:3])
            starts.append((first_text, first_text + len(columns[3]) + 1))
            sizes.append((len(columns[3]), len(columns[4])))
            labels.append(_LABELS[columns[0]])
            row_start += len(row)
    if not labels:
        raise UsageError(f"{file} is empty. Replace it.")
    return np.array(starts), np.array(sizes), np.array(labels)
