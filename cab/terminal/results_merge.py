"""`cab results merge`: puts what other stores hold into one, and says what became of it."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cab.store.merging import merge
from cab.store.store import Store
from cab.terminal.printing import counted, print_damaged

_MOST = 20  # lines of one kind


def merge_and_print(target: Path, sources: Sequence[Path], out: Console) -> None:
    """Merge `sources` into `target`, and print what was added, and which of two answers stayed and why."""
    stores = [Store(folder) for folder in (target, *sources)]
    merged = merge(stores[0], stores[1:])
    lines = [
        f"{each.entry.case_id[:8]} {each.entry.case.title}, {each.entry.meter}: {each.kept}'s stays, not "
        f"{each.other}'s: {each.reason}"
        for each in merged.conflicts
    ]
    _print_some("two answers to one question", lines, out)
    lines = [f"{entry.case_id[:8]} {entry.case.title}, {entry.meter}, {entry.time}" for entry in merged.beside]
    _print_some(f"kept beside those of {target}, from another source or machine; tables show the latest", lines, out)
    cases = len({entry.case_id for entry in merged.added})
    out.print(
        f"added: {counted(len(merged.added), 'file')} of {counted(cases, 'case')}; the same in both: {merged.same}; "
        f"two answers: {len(merged.conflicts)}",
        markup=False,
        highlight=False,
    )
    print_damaged(stores)


def _print_some(title: str, lines: Sequence[str], out: Console) -> None:
    if not lines:
        return
    more = [f"... and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    text = "\n".join(f"  {line}" for line in [*lines[:_MOST], *more])
    out.print(f"{title}:\n{text}", markup=False, highlight=False, soft_wrap=True)
