"""How a run tells where it is: a bar with the time left in a terminal, plain lines elsewhere, nothing in silence."""

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cab.plan import Item

_COLOURS = {"ok": "green", "unsupported": "dim", "skipped": "dim"}


class Silent:
    """Tells nothing."""

    def start(self, total: int, pending: int) -> None: ...

    def doing(self, what: str) -> None: ...

    def step(self, children: int) -> None: ...

    def done(self, item: Item, status: str, reason: str) -> None: ...

    def note(self, text: str) -> None: ...


class Display:
    """Shows children done, what runs now, and the time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = console.is_terminal
        self._count = self._total = 0
        self._said = ("", 0.0)
        self._bar = Progress(
            TextColumn("{task.description}", table_column=None),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: Any = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, total: int, pending: int) -> None:
        """Say how much there is; `total` and `pending` count child processes."""
        self._total = pending
        if total > pending:
            self.console.print(f"{total - pending} of {total} child processes are done already")
        if self._live and pending:
            self._task = self._bar.add_task("", total=pending)
            self._bar.start()

    def doing(self, what: str) -> None:
        """Show what runs now."""
        if self._task is not None:
            width = max(20, self.console.width - 65)
            self._bar.update(self._task, description=escape(what[:width]))
        elif not self._live and what != self._said[0] and time.monotonic() - self._said[1] > 10:
            # elsewhere a line now and then, so that a log shows that a long training lives
            self._said = (what, time.monotonic())
            self.console.print(escape(what), highlight=False, soft_wrap=True)

    def step(self, children: int) -> None:
        """Count child processes that are over."""
        self._count += children
        if self._task is not None:
            self._bar.advance(self._task, children)

    def done(self, item: Item, status: str, reason: str) -> None:
        """Tell how one meter of one case ended."""
        colour = _COLOURS.get(status, "red")
        if self._live and status == "ok":
            return
        why = f": {escape(reason)}" if reason else ""
        line = f"[{self._count}/{self._total}] {escape(item.case.title)} {item.meter} [{colour}]{status}[/]{why}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Tell what a user should know."""
        self.console.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)
