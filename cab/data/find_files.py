"""Looks for the files of a release, which may be in one of several subfolders of a data folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cab.errors import UsageError


def find_files(folder: Path, subfolders: Iterable[str], names: Sequence[str]) -> Path | None:
    """Return the first of the subfolders of `folder` that exists and has all files `names`, or None.

    `UsageError` where a subfolder exists and lacks some of them.
    """
    for subfolder in subfolders:
        missing = [name for name in names if not (folder / subfolder / name).is_file()]
        if not missing:
            return folder / subfolder
        if (folder / subfolder).exists():
            raise UsageError(f"{folder / subfolder} has no {', '.join(missing)}. Complete it, or move it away.")
    return None
