"""`cab results remove`: says what would go, asks, and removes it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cab.errors import UsageError
from cab.store.removal import remove
from cab.terminal.printing import counted
from cab.terminal.results_list import cases_of, chosen, opened, print_table, totals


def ask_and_remove(words: Sequence[str], folder: Path, every: bool, yes: bool, out: Console) -> None:
    """Remove what `chosen` selects, history included, after the answer yes.

    `UsageError` where nothing narrows it and `every` is False, and where there is nobody to ask and `yes` is False.
    """
    if not words and not every:
        raise UsageError("which? Give filters, as in mechanism=agent status=error, or ids of cases; everything: --all")
    if words and every:
        raise UsageError(f"--all is everything, and {' '.join(words)} is not: give one of the two")
    store = opened(folder)
    listed = cases_of(chosen(store, words, history=True))
    files = {file for _, facts in listed for file in facts["files"]}
    if not files:
        raise UsageError(f"there is nothing to remove in {store.folder}")
    print_table(listed, out)
    out.print(totals(len(listed), len(files), store), markup=False, highlight=False)
    if not yes:
        if not _somebody_is_there():
            raise UsageError("nothing was removed: there is nobody to ask; --yes removes without asking")
        if out.input("Remove them? [y/N] ", markup=False).strip().lower() not in ("y", "yes"):
            out.print("nothing was removed", highlight=False)
            return
    out.print(f"removed: {counted(remove(store, files), 'file')}", highlight=False)


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()
