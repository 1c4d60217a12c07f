"""PG-19 (Rae et al., arXiv 1911.05507) as released: a text file a book, in `pg19/{train,validation,test}`.

It is 11 GB in 28,752 files of a public bucket, gs://deepmind-gutenberg, and is not downloaded from here.
"""

from pathlib import Path

from cab.errors import UsageError

TREE = "pg19"
BOOKS = {"train": 28_602, "validation": 50, "test": 100}
BRING = f"put PG-19's train, validation and test folders (gs://deepmind-gutenberg, 11 GB) into {TREE} there"


def read_tree(folder: Path) -> dict[str, list[Path]] | None:
    """Return the books of each split, sorted by name, or None where `folder` has no PG-19.

    `UsageError` where books are missing or empty: a half-copied tree is another data set.
    """
    tree = folder / TREE
    if not tree.exists():
        return None
    books = {split: sorted((tree / split).glob("*.txt")) for split in BOOKS}
    for split, files in books.items():
        if len(files) != BOOKS[split]:
            raise UsageError(
                f"{tree / split} has {len(files):,} books, and the release {BOOKS[split]:,} (files named *.txt). "
                "Complete it, or move it away."
            )
        for file in files:
            if not file.stat().st_size:
                raise UsageError(f"{file} is empty: restore the file.")
    return books
