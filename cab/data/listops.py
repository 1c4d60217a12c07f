"""ListOps (Nangia and Bowman, arXiv 1804.06028) as Long Range Arena makes it (arXiv 2011.04006, section 2.1).

    [MAX 4 [MIN 2 3 ] 1 ]   is 4: nested minima, maxima, medians and sums modulo 10 of digits

Examples are generated in seconds, each a function of the seed and its index alone, or read from the release's files.
The original also drops duplicates; two equal expressions of more than 500 tokens do not occur.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cab.data.download import alone, placed
from cab.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

NAMES = ("", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")  # of the tokens; 0 is padding
FIRST_OPERATOR, LAST_OPERATOR = 11, 14
FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
OFFICIAL = {"train": 96_000, "validation": 2_000, "test": 2_000}
HEADER = b"Source\tTarget"
PLACES = ("listops-1000", "listops", "lra_release/listops-1000", "lra_release/lra_release/listops-1000")
MARK = ".cab-generated.json"  # stands beside files that we made
_CHUNK = 1_000  # examples that a thread makes at a time


@dataclass(frozen=True)
class Recipe:
    """The published parameters. Lengths are in tokens without parentheses, both limits excluded."""

    shortest: int = 500
    longest: int = 2000
    depth: int = 10
    arguments: int = 10

    def __post_init__(self) -> None:
        if not 2 <= self.arguments <= 100 or not 2 <= self.depth <= 60:
            raise ValueError(f"{self}: arguments from 2 to 100 and a depth from 2 to 60 are needed")
        if not 0 <= self.shortest < self.longest - 1 or self.longest < 5:
            raise ValueError(f"{self}: lengths lie strictly between the two, and the least expression has 4 tokens")
        if self.shortest > 20 * (self.depth - 1) * self.arguments:
            raise ValueError(f"{self}: expressions of that depth and number of arguments are hardly ever so long")


@dataclass(frozen=True)
class Examples:
    """Token ids one example behind the other, where each ends, and what each is worth."""

    tokens: Array
    ends: Array
    values: Array

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int, /) -> tuple[Array, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.tokens[self.ends[index - 1] if index else 0 : self.ends[index]], int(self.values[index])


def generate(seed: int, first: int, count: int, recipe: Recipe | None = None) -> Examples:
    """Make examples first, first + 1, ... of a seed; the number of threads changes nothing."""
    parts = list(_chunks(seed, first, count, recipe or Recipe()))
    if not parts:
        return Examples(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.uint8))
    shifts = np.cumsum([0] + [len(part.tokens) for part in parts[:-1]])
    return Examples(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.ends + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.values for part in parts]),
    )


def write(folder: Path, seed: int = 0, counts: dict[str, int] | None = None, recipe: Recipe | None = None) -> Path:
    """Write the release's three files into `folder`/listops-1000, whole or not at all, and return where they are."""
    counts, recipe = counts or OFFICIAL, recipe or Recipe()
    target = folder / PLACES[0]
    with alone(folder):
        if target.exists():
            find(folder)  # says what is wrong with it
            return target
        with placed(target) as beside:
            first = 0
            for split, name in FILES.items():
                with (beside / name).open("wb") as file:
                    file.write(HEADER + b"\r\n")
                    for text in _threaded(_rows, seed, first, counts[split], recipe):
                        file.write(text)
                first += counts[split]
            made = {"seed": seed, "counts": counts, "recipe": asdict(recipe)}
            (beside / MARK).write_text(json.dumps(made) + "\n", encoding="utf-8")
    return target


def find(folder: Path) -> Path | None:
    """Return where in `folder` the three files are, or None; `UsageError` where some are missing."""
    for place in PLACES:
        files = [folder / place / name for name in FILES.values()]
        missing = [file.name for file in files if not file.is_file()]
        if not missing:
            return folder / place
        if (folder / place).exists():
            raise UsageError(f"{folder / place} has no {', '.join(missing)}. Complete it, or move it away.")
    return None


def made(place: Path) -> dict[str, Any] | None:
    """Return what we wrote the files with, or None where they are somebody else's."""
    mark = place / MARK
    return json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None


def read(file: Path) -> Examples:
    """Read one of the release's files; `UsageError` names the first row that is not an expression and its value."""
    from cab.data import listops_kernels

    try:
        text = np.fromfile(file, np.uint8)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    head = bytes(text[:64]).split(b"\n")[0]
    if head.rstrip(b"\r") != HEADER:
        raise UsageError(f"{file} begins with {head[:40]!r}, not with the header {HEADER!r}: not a ListOps file")
    body = text[len(head) + 1 :]
    # more than can be needed: memory that is never touched costs nothing
    tokens, ends = np.empty(len(body) + 1, np.uint8), np.empty(len(body) // 4 + 1, np.int64)
    values = np.empty(len(ends), np.uint8)
    rows, wrong = listops_kernels.parse(body, tokens, ends, values)
    if wrong or not rows:
        raise UsageError(
            f"{file} cannot be read after {rows:,} rows: line {rows + 2} is not an expression, a tab, its value and "
            "the end of a line. The file is truncated or damaged: bring it again."
        )
    return Examples(tokens[: ends[rows - 1]].copy(), ends[:rows].copy(), values[:rows].copy())


def spelled(examples: Examples) -> bytes:
    """Return the rows of the release's files for these examples."""
    from cab.data import listops_kernels

    names = [name.encode() for name in NAMES]
    name_ends = np.cumsum([len(name) for name in names])
    # a digit takes at most "( 9 ) " and an operator "( [MAX ": 9 bytes a token, and 4 a row for tab, value and end
    out = np.empty(9 * len(examples.tokens) + 4 * len(examples), np.uint8)
    letters = np.frombuffer(b"".join(names), np.uint8)
    size = listops_kernels.spell(examples.tokens, examples.ends, examples.values, letters, name_ends, out)
    return out[:size].tobytes()


def _made(seed: int, first: int, count: int, recipe: Recipe) -> Examples:
    from cab.data import listops_kernels

    tokens = np.empty(count * recipe.longest, np.uint8)
    ends, values = np.empty(count, np.int64), np.empty(count, np.uint8)
    listops_kernels.fill(
        seed, first, recipe.shortest, recipe.longest, recipe.depth, recipe.arguments, tokens, ends, values
    )
    return Examples(tokens[: ends[-1]], ends, values)


def _rows(seed: int, first: int, count: int, recipe: Recipe) -> bytes:
    return spelled(_made(seed, first, count, recipe))


def _chunks(seed: int, first: int, count: int, recipe: Recipe) -> Iterator[Examples]:
    return _threaded(_made, seed, first, count, recipe)


def _threaded(work: Any, seed: int, first: int, count: int, recipe: Recipe) -> Iterator[Any]:
    """Yield what `work` makes of each chunk, in order; a few chunks are under way at a time."""
    workers = len(os.sched_getaffinity(0))
    starts = range(first, first + count, _CHUNK)
    with ThreadPoolExecutor(workers) as pool:
        ahead: list[Any] = []
        for start in starts:
            ahead.append(pool.submit(work, seed, start, min(_CHUNK, first + count - start), recipe))
            if len(ahead) > 2 * workers:
                yield ahead.pop(0).result()
        for each in ahead:
            yield each.result()
