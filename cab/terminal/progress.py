"""The progress of a run: a bar with the time left in a terminal or a notebook, plain lines in a log, or nothing.

`Display` and `Silent` are `cab.runner.listener.Listener`s.
"""

import time
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cab.planning.measurement import Measurement
from cab.planning.variation import labels

LOG_INTERVAL = 10.0  # seconds between two lines of a log that say what runs now
ETA_INTERVAL = 30.0  # seconds between two lines of a log that say how long the rest will take
_COLOURS = {"ok": "green", "unsupported": "dim", "skipped": "dim"}
_BAR_WIDTH = 75  # characters of the terminal that the description must leave to the rest of the bar


class Silent:
    """Prints nothing."""

    def start(self, measurements: Sequence[Measurement], pending: Sequence[Measurement], children: int) -> None: ...

    def doing(self, what: str, worker: int | None = None) -> None: ...

    def step(self, measurement: Measurement, children: int, more: int) -> None: ...

    def done(self, measurement: Measurement, status: str, reason: str) -> None: ...

    def note(self, text: str) -> None: ...


class Display:
    """Shows the cases that are done, what runs now, the child processes that have ended, and the time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._shows_bar = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
        self._pending: Counter[str] = Counter()  # case id -> measurements that have not ended
        self._cases = 0
        self._labels: dict[str, str] = {}  # case id -> title, told apart from the others
        self._doing: dict[int | None, str] = {}  # worker (None: there is but one) -> what it does
        self._last_log_line, self._last_log_time = "", 0.0
        self._children, self._ended = 0, 0  # child processes in all, and those that have ended
        self._started = self._last_eta_time = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", table_column=None),
            TextColumn("{task.fields[cases]}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),  # child processes
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: Any = None  # of the bar; None where there is no bar, or nothing to do

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, measurements: Sequence[Measurement], pending: Sequence[Measurement], children: int) -> None:
        """Say how many cases are done already, and start the bar."""
        self._pending = Counter(each.case.id for each in pending)
        self._cases = len({each.case.id for each in measurements})
        self._labels = labels(list({each.case.id: each.case for each in measurements}.values()))
        done = self._cases - len(self._pending)
        if done:
            self.console.print(f"{done} of {self._cases} cases are done already", highlight=False)
        self._children = children
        self._started = self._last_eta_time = time.monotonic()
        if self._shows_bar and pending:
            self._task = self._bar.add_task("", total=self._children, cases=self._case_count())
            self._bar.start()

    def doing(self, what: str, worker: int | None = None) -> None:
        """Show what runs now, of several workers a line each. A log gets a line now and then: a training is alive."""
        if worker is None:
            self._doing.clear()  # what runs alone follows what ran side by side
        if what and worker is not None:
            what = f"worker {worker}: {what}"
        self._doing[worker] = what
        if self._task is not None:
            width = max(20, self.console.width - _BAR_WIDTH)
            running = sorted((number or 0, text) for number, text in list(self._doing.items()) if text)
            self._bar.update(self._task, description="\n".join(escape(fitted(text, width)) for _, text in running))
        elif what and not self._shows_bar:
            now = time.monotonic()
            if what != self._last_log_line and now - self._last_log_time > LOG_INTERVAL:
                self._last_log_line, self._last_log_time = what, now
                self.console.print(escape(what), highlight=False, soft_wrap=True)
        self._log_time_left()

    def step(self, measurement: Measurement, children: int, more: int) -> None:
        """Advance the bar by the child processes that have ended, and lengthen it by those that are still to come."""
        self._ended += children
        self._children += more
        if self._task is not None:
            self._bar.update(self._task, advance=children, total=self._children)
        self._log_time_left()

    def done(self, measurement: Measurement, status: str, reason: str) -> None:
        """Print how a measurement ended. A bar shows only those that are not ok."""
        self._pending[measurement.case.id] -= 1
        if self._task is not None:
            self._bar.update(self._task, cases=self._case_count())
        if self._shows_bar and status == "ok":
            return
        colour = _COLOURS.get(status, "red")
        reason_text = f": {escape(reason)}" if reason else ""
        case = measurement.case
        name = f"{escape(self._labels.get(case.id, case.title))} {measurement.meter}"
        line = f"[{self._case_count()}] {name} [{colour}]{status}[/]{reason_text}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a remark to the user."""
        self.console.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def _log_time_left(self) -> None:
        """Print now and then, into a log, how long the rest will take at the pace so far."""
        now = time.monotonic()
        if self._shows_bar or not self._ended or now - self._last_eta_time < ETA_INTERVAL:
            return
        self._last_eta_time = now
        elapsed = now - self._started
        # on a cluster what a lost job has done in part is done again, which nobody foresaw
        left = elapsed / self._ended * max(0, self._children - self._ended)
        self.console.print(
            f"{self._ended} of {self._children} processes in {_clock(elapsed)}, about {_clock(left)} left",
            highlight=False,
            soft_wrap=True,
        )

    def _case_count(self) -> str:
        pending = sum(count > 0 for count in self._pending.values())
        return f"{self._cases - pending}/{self._cases} cases"


def fitted(text: str, width: int) -> str:
    """Shorten "title: progress" at the end of the title, so that a training's step and loss stay in sight.

    >>> fitted("softmax NS lra_text n=1024 seed=0: step 120/1000 loss 0.6931", 45)
    'softmax NS lra_te…: step 120/1000 loss 0.6931'
    """
    title, colon, progress = text.partition(": ")
    room = width - len(colon) - len(progress)
    if len(text) <= width or room < 10:
        return text[:width]
    return f"{title[: room - 1]}…{colon}{progress}"


def _clock(seconds: float) -> str:
    """Write 0:07, 12:34 or 1:02:03."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
