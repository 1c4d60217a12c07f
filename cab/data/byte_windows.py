"""Long text as windows of bytes: what language models are trained on and scored on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class ByteWindows:
    """Consecutive windows of `length` bytes of documents, which are bytes or files; item i is (length,) bytes.

    No window has bytes of two documents, and what is left at a document's end is in none. Files are read when an item
    is asked for.
    """

    def __init__(self, documents: Sequence[bytes | Path], length: int) -> None:
        self.documents, self.length = documents, length
        sizes = [each.stat().st_size if isinstance(each, Path) else len(each) for each in documents]
        self._ends: NDArray[Any] = np.cumsum(np.asarray(sizes, dtype=np.int64) // length)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int, /) -> Bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        start = (index - int(self._ends[number - 1] if number else 0)) * self.length
        document = self.documents[number]
        if isinstance(document, Path):
            return np.fromfile(document, np.uint8, self.length, offset=start)
        return np.frombuffer(document, np.uint8, self.length, start)
