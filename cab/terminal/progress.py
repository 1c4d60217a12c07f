"""How a run tells where it is: a bar with the time left in a terminal, plain lines elsewhere, nothing in silence."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cab.planning.measurement import Measurement

_COLOURS = {"ok": "green", "unsupported": "dim", "skipped": "dim"}


class Silent:
    """Tells nothing."""

    def start(self, measurements: Sequence[Measurement], pending: Sequence[Measurement]) -> None: ...

    def doing(self, what: str) -> None: ...

    def step(self, children: int) -> None: ...

    def done(self, measurement: Measurement, status: str, reason: str) -> None: ...

    def note(self, text: str) -> None: ...


class Display:
    """Shows cases done, what runs now, child processes done, and the time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = console.is_terminal
        self._count = self._total = 0  # child processes
        self._left: Counter[str] = Counter()  # case -> items that are still to end
        self._cases = 0
        self._said = ("", 0.0)
        self._bar = Progress(
            TextColumn("{task.description}", table_column=None),
            TextColumn("{task.fields[cases]}"),
            BarColumn(bar_width=20),
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

    def start(self, measurements: Sequence[Measurement], pending: Sequence[Measurement]) -> None:
        """Say how much there is, and how much of it is done already."""
        self._left = Counter(each.case.id for each in pending)
        self._cases = len({each.case.id for each in measurements})
        self._total = sum(each.processes for each in pending)
        done = self._cases - len(self._left)
        if done:
            self.console.print(f"{done} of {self._cases} cases are done already", highlight=False)
        if self._live and pending:
            self._task = self._bar.add_task("", total=self._total, cases=self._progress())
            self._bar.start()

    def doing(self, what: str) -> None:
        """Show what runs now."""
        if self._task is not None:
            width = max(20, self.console.width - 75)
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

    def done(self, measurement: Measurement, status: str, reason: str) -> None:
        """Tell how one meter of one case ended."""
        self._left[measurement.case.id] -= 1
        if self._task is not None:
            self._bar.update(self._task, cases=self._progress())
        colour = _COLOURS.get(status, "red")
        if self._live and status == "ok":
            return
        why = f": {escape(reason)}" if reason else ""
        line = f"[{self._progress()}] {escape(measurement.case.title)} {measurement.meter} [{colour}]{status}[/]{why}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def _progress(self) -> str:
        left = sum(count > 0 for count in self._left.values())
        return f"{self._cases - left}/{self._cases} cases"

    def note(self, text: str) -> None:
        """Tell what a user should know."""
        self.console.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)
