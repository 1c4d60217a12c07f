"""ListOps (Nangia and Bowman, arXiv 1804.06028) as generated for Long Range Arena (arXiv 2011.04006, section 2.1).

    [MAX 4 [MIN 2 3 ] 1 ]   is 4: nested minima, maxima, medians and sums modulo 10 of digits

Examples are generated in seconds, each a function of the seed and its index alone, or read from the release's files.
The original also drops duplicates. Here nothing is dropped: two equal expressions of more than 500 tokens do not occur.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cab.data.download import atomic_folder, folder_lock
from cab.data.find_files import find_files
from cab.data.threaded_chunks import threaded_chunks
from cab.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

NAMES = ("", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")  # of the token ids; 0 is padding
FIRST_OPERATOR, LAST_OPERATOR = 11, 14
FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
OFFICIAL = {"train": 96_000, "validation": 2_000, "test": 2_000}
HEADER = b"Source\tTarget"
FOLDERS = ("listops-1000", "listops", "lra_release/listops-1000", "lra_release/lra_release/listops-1000")
MARKER = ".cab-generated.json"  # is beside files that `write` made
_CHUNK = 1_000  # examples that a thread generates at a time


@dataclass(frozen=True)
class Parameters:
    """The parameters of the generator; the defaults are the published ones."""

    shortest: int = 500  # tokens without parentheses; this limit and the next are excluded
    longest: int = 2000
    depth: int = 10
    arguments: int = 10  # most of an operator

    def __post_init__(self) -> None:
        if not 2 <= self.arguments <= 100 or not 2 <= self.depth <= 60:
            raise ValueError(f"{self}: arguments from 2 to 100 and a depth from 2 to 60 are needed")
        if not 0 <= self.shortest < self.longest - 1 or self.longest < 5:
            raise ValueError(f"{self}: lengths lie strictly between the two, and the least expression has 4 tokens")
        if self.shortest > 20 * (self.depth - 1) * self.arguments:
            raise ValueError(f"{self}: expressions of that depth and number of arguments are hardly ever so long")


@dataclass(frozen=True)
class Examples:
    """The token ids of all examples in one array, where each example ends, and its value."""

    tokens: Array
    ends: Array
    values: Array

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int, /) -> tuple[Array, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.tokens[self.ends[index - 1] if index else 0 : self.ends[index]], int(self.values[index])


def generate(seed: int, first: int, count: int, parameters: Parameters | None = None) -> Examples:
    """Generate the examples `first` to `first + count - 1` of a seed, in threads."""
    chosen = parameters or Parameters()

    def generate_chunk(start: int, size: int) -> Examples:
        return _generate_chunk(seed, start, size, chosen)

    chunks = list(threaded_chunks(generate_chunk, first, count, _CHUNK))
    if not chunks:
        return Examples(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.uint8))
    offsets = np.cumsum([0] + [len(chunk.tokens) for chunk in chunks[:-1]])
    return Examples(
        np.concatenate([chunk.tokens for chunk in chunks]),
        np.concatenate([chunk.ends + offset for chunk, offset in zip(chunks, offsets, strict=True)]),
        np.concatenate([chunk.values for chunk in chunks]),
    )


def write(
    folder: Path, seed: int = 0, counts: dict[str, int] | None = None, parameters: Parameters | None = None
) -> Path:
    """Write the release's three files into `folder`/listops-1000, all or none, and return that folder."""
    counts, parameters = counts or OFFICIAL, parameters or Parameters()
    target = folder / FOLDERS[0]
    with folder_lock(folder):
        if target.exists():
            find(folder)  # raises where files are missing
            return target
        with atomic_folder(target) as temporary:
            first = 0
            for split, name in FILES.items():
                with (temporary / name).open("wb") as file:
                    file.write(HEADER + b"\r\n")
                    file.writelines(_row_chunks(seed, first, counts[split], parameters))
                first += counts[split]
            record = {"seed": seed, "counts": counts, "recipe": asdict(parameters)}
            (temporary / MARKER).write_text(json.dumps(record) + "\n", encoding="utf-8")
    return target


def find(folder: Path) -> Path | None:
    """Return the subfolder of `folder` that has the three files, or None; `UsageError` where it lacks some."""
    return find_files(folder, FOLDERS, tuple(FILES.values()))


def generation_record(folder: Path) -> dict[str, Any] | None:
    """Return the seed, the counts and the parameters that `write` made a folder with; None for a folder of others."""
    marker = folder / MARKER
    return json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None


def read(file: Path) -> Examples:
    """Read one of the release's files; `UsageError` names the first row that is not an expression with its value."""
    from cab.data import listops_kernels

    try:
        text = np.fromfile(file, np.uint8)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    first_line = bytes(text[:64]).split(b"\n")[0]
    if first_line.rstrip(b"\r") != HEADER:
        raise UsageError(f"{file} begins with {first_line[:40]!r}, not with the header {HEADER!r}: not a ListOps file")
    body = text[len(first_line) + 1 :]
    # upper bounds of what is needed: memory that is never written is never allocated
    tokens, ends = np.empty(len(body) + 1, np.uint8), np.empty(len(body) // 4 + 1, np.int64)
    values = np.empty(len(ends), np.uint8)
    rows, damaged = listops_kernels.parse_rows(body, tokens, ends, values)
    if damaged or not rows:
        raise UsageError(
            f"{file} cannot be read after {rows:,} rows: line {rows + 2} is not an expression, a tab, its value and "
            "the end of a line. The file is truncated or damaged: replace it."
        )
    return Examples(tokens[: ends[rows - 1]].copy(), ends[:rows].copy(), values[:rows].copy())


def format_rows(examples: Examples) -> bytes:
    """Format examples as rows of the release's files."""
    from cab.data import listops_kernels

    names = [name.encode() for name in NAMES]
    name_ends = np.cumsum([len(name) for name in names])
    # a digit takes at most "( 9 ) " and an operator "( [MAX ": 9 bytes a token, and 4 a row for tab, value and end
    out = np.empty(9 * len(examples.tokens) + 4 * len(examples), np.uint8)
    letters = np.frombuffer(b"".join(names), np.uint8)
    size = listops_kernels.format_rows(examples.tokens, examples.ends, examples.values, letters, name_ends, out)
    return out[:size].tobytes()


def _generate_chunk(seed: int, first: int, count: int, parameters: Parameters) -> Examples:
    from cab.data import listops_kernels

    tokens = np.empty(count * parameters.longest, np.uint8)
    ends, values = np.empty(count, np.int64), np.empty(count, np.uint8)
    limits = (parameters.shortest, parameters.longest, parameters.depth, parameters.arguments)
    listops_kernels.generate(seed, first, *limits, tokens, ends, values)
    return Examples(tokens[: ends[-1]], ends, values)


def _row_chunks(seed: int, first: int, count: int, parameters: Parameters) -> Iterator[bytes]:
    def generate_rows(start: int, size: int) -> bytes:
        return format_rows(_generate_chunk(seed, start, size, parameters))

    return threaded_chunks(generate_rows, first, count, _CHUNK)
