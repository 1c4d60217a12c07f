"""One store takes the measurements that others hold, all of them or none.

What is new is copied into a folder beside `cases/`, whose name becomes `.merged-...` in one step when it is complete.
From then on every reader of the store moves the copies into their places first (`Store.finish_merges`). So a merge that
is killed before that step has added no case, and one that is killed after it is finished by whoever comes next. The
controls, peak rates and bundles are in their places before that step, so that no case is ever read without its control.

A run may measure into the target meanwhile: an answer that it keeps while the merge copies stays, because it was asked
for later.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cab.errors import UsageError
from cab.store import claims, controls
from cab.store.entry import Entry
from cab.store.store import COPIED, Store

_COPYING = ".merging-"  # how the folder begins that is being filled
# of a store besides its cases; what they hold is named by its content, its machine, or its run
FOLDERS = ("bundles", "peaks", controls.FOLDER)


@dataclass(frozen=True)
class Conflict:
    """Two answers to one measurement; the two files have one name, so that one of them stays."""

    entry: Entry  # that stays
    kept: Path  # the store that it is of
    other: Path
    reason: str


@dataclass
class Merged:
    """What a merge did, or would do."""

    added: list[Entry] = field(default_factory=list)
    same: int = 0  # files that both hold
    conflicts: list[Conflict] = field(default_factory=list)
    beside: list[Entry] = field(default_factory=list)  # added ones whose case and meter were there, under another key


def merge(target: Store, sources: Sequence[Store]) -> Merged:
    """Put into `target` what the `sources` hold and it does not, with its imported bundles, peak rates and controls.

    Of two files with one name, the answer that was asked for last stays; of two of one second, the target's. Files of
    one case with different keys (another source, another machine) all stay, as history does. The sources are not
    changed, but that damaged files are set aside, as every reading of a store does.

    `UsageError` where a store is none, is the target itself, or where another merge into the target is under way.
    """
    for store in (target, *sources):
        if not (store.folder / "cases").is_dir():
            hint = "no folder cases/ (a bundle is taken in by cab import)"
            raise UsageError(f"there are no results in {store.folder.absolute()}: {hint}")
    if any(store.folder.samefile(target.folder) for store in sources):
        raise UsageError(f"{target.folder} cannot be merged with itself; name two stores")
    target.open_for_writing()
    with _alone(target) as held:
        for left in target.folder.glob(f"{_COPYING}*"):  # of a merge that was killed while it copied
            shutil.rmtree(left)
        merged, origins = _plan(target, sources)
        copies = Path(tempfile.mkdtemp(dir=target.folder, prefix=_COPYING))
        try:
            for path in origins.values():
                shutil.copy2(path, copies / path.name)  # with its time, which tells two of one second apart
            for source in sources:
                _copy_beside_the_cases(source.folder, target.folder)
            if not held():
                raise UsageError(
                    f"this merge into {target.folder} stood still for so long that another could begin; nothing was "
                    "merged but controls, peak rates and bundles: try again"
                )
            copies.rename(copies.with_name(copies.name.replace(_COPYING, COPIED)))
        except BaseException:
            shutil.rmtree(copies, ignore_errors=True)
            raise
        target.finish_merges()
    return merged


def _plan(target: Store, sources: Sequence[Store]) -> tuple[Merged, dict[str, Path]]:
    """Return what a merge does, and file -> where it is copied from."""
    merged, origins = Merged(), {}
    holders: dict[str, tuple[Entry, Path]] = {entry.file: (entry, target.folder) for _, entry in target.entries()}
    measured = {(entry.case_id, entry.meter) for entry, _ in holders.values()}
    added: dict[str, Entry] = {}
    for source in sources:
        for path, entry in source.entries():
            if entry.file not in holders:
                added[entry.file] = entry
            else:
                present, folder = holders[entry.file]
                if entry == present:
                    merged.same += 1
                    continue
                times = (present.asked or present.time, entry.asked or entry.time)
                newer = times[1] > times[0]
                reason = f"asked for later, {max(times)} against {min(times)}" if times[0] != times[1] else "was first"
                kept, other = ((entry, source.folder), folder) if newer else ((present, folder), source.folder)
                merged.conflicts.append(Conflict(*kept, other, reason))
                if not newer:
                    continue
            holders[entry.file] = (entry, source.folder)
            origins[entry.file] = path
    merged.added = list(added.values())
    merged.beside = [entry for entry in merged.added if (entry.case_id, entry.meter) in measured]
    return merged, origins


def _copy_beside_the_cases(source: Path, target: Path) -> None:
    """Copy what a store holds besides its cases; of two controls of a bundle, the one that was timed after it stays."""
    for name in FOLDERS:
        _copy_what_is_new(source / name, target / name)
    present = {control.bundle: control for control in controls.load(target)}
    for control in controls.load(source):
        there = present.get(control.bundle)  # None where the target's file cannot be read
        if there is None or (there.after is None and control.after is not None):
            controls.keep(target, control)


def _copy_what_is_new(source: Path, target: Path) -> None:
    """Copy the files and folders that `target` lacks, each moved into place whole."""
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if path.name.startswith(".") or (target / path.name).exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".") as folder:
            copy = Path(folder) / path.name
            if path.is_dir():
                shutil.copytree(path, copy)
            else:
                shutil.copy2(path, copy)
            copy.rename(target / path.name)


@contextmanager
def _alone(target: Store) -> Iterator[Callable[[], bool]]:
    """Hold the claim of merges into a store; yields what says whether it still holds."""
    with claims.claim(target.folder / "locks" / "merge.lock") as held:
        if held is None:
            raise UsageError(f"another merge into {target.folder} is under way; try again when it has ended")
        yield held
