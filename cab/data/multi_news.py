"""Multi-News (Fabbri et al., arXiv 1906.01749) as released: news articles on one event, and their summary.

`multi-news` has six files, `{train,val,test}.{src.cleaned,tgt}`, with an example a line. Its download is a folder of a
web drive that only a browser opens, so it is put there by hand.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cab.errors import UsageError

TREE = "multi-news"
EXAMPLES = {"train": 44_972, "validation": 5_622, "test": 5_622}
_PREFIXES = {"train": "train", "validation": "val", "test": "test"}
BRING = (
    "put Multi-News (github.com/Alex-Fabbri/Multi-News: {train,val,test}.src.cleaned and .tgt, 0.7 GB) into "
    f"{TREE} there"
)


class Examples:
    """Articles and summary of each example, read when they are asked for; `indices` are those that are kept."""

    def __init__(self, sources: "Lines", summaries: "Lines") -> None:
        self.sources, self.summaries = sources, summaries
        self.indices: Any = np.flatnonzero((sources.sizes > 1) & (summaries.sizes > 1))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> tuple[str, str]:
        number = int(self.indices[index])
        return self.sources[number].replace("NEWLINE_CHAR", "\n"), self.summaries[number]


class Lines:
    """The lines of a text file, without their ends."""

    def __init__(self, file: Path) -> None:
        self.file = file
        ends = [-1]
        with file.open("rb") as content:
            first = 0
            while chunk := content.read(1 << 24):
                ends += (first + np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))).tolist()
                first += len(chunk)
        if ends[-1] != first - 1:  # a last line without an end
            ends.append(first)
        self.starts: Any = np.asarray(ends[:-1]) + 1
        self.sizes: Any = np.diff(ends)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int, /) -> str:
        with self.file.open("rb") as content:
            content.seek(int(self.starts[index]))
            return content.read(int(self.sizes[index])).decode(errors="replace").strip()


def read_tree(folder: Path) -> dict[str, Examples] | None:
    """Return the examples of each split, or None where `folder` has no Multi-News.

    Those without articles or without a summary are left out. `UsageError` where files or lines are missing.
    """
    tree = folder / TREE
    if not tree.exists():
        return None
    splits = {}
    for split, prefix in _PREFIXES.items():
        files: Sequence[Path] = [tree / f"{prefix}.src.cleaned", tree / f"{prefix}.tgt"]
        for file in files:
            if not file.is_file():
                raise UsageError(f"{tree} has no {file.name}. Complete it, or move it away.")
        sources, summaries = (Lines(file) for file in files)
        for file, lines in zip(files, (sources, summaries), strict=True):
            if len(lines) != EXAMPLES[split]:
                raise UsageError(
                    f"{file} has {len(lines):,} lines, and the release {EXAMPLES[split]:,}. "
                    f"Complete it, or move {tree} away."
                )
        splits[split] = Examples(sources, summaries)
    return splits
