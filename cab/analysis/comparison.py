"""One mechanism against another: their ratio, or the difference of their scores, on each board that has both."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, log

from cab.analysis.leaderboard import Board, Cell, Metric, metrics_of
from cab.analysis.ranking import labelled_together
from cab.errors import UsageError, unknown

Interval = tuple[float, float | None, float | None]  # a value with the ends of its 95 % interval, where it has one


@dataclass(frozen=True)
class Comparison:
    """Two cells of one metric on one board."""

    board: Board
    metric: Metric
    above: Cell
    below: Cell

    @property
    def ratio(self) -> Interval | None:
        """The first over the second; None where one is not positive."""
        return ratio(self.above, self.below)

    @property
    def difference(self) -> Interval:
        """The first less the second, in the unit of the metric."""
        return difference(self.above, self.below)

    @property
    def verdict(self) -> str:
        """`better` or `worse`, where the interval of the ratio or difference excludes equality; else nothing.

        Nothing, too, where an interval is unknown, and where the metric has no direction.
        """
        times = None if self.metric.by_difference else self.ratio
        value, low, high = times or self.difference
        equal = 1.0 if times else 0.0
        if low is None or high is None or low <= equal <= high or self.metric.higher_is_better is None:
            return ""
        return "better" if (value > equal) == self.metric.higher_is_better else "worse"


def comparisons(boards: Sequence[Board], first: str, second: str, metric: str = "") -> list[Comparison]:
    """Return a comparison for each board on which both labels have a value of `metric`, or of the board's headline.

    Labels tell lines apart over all boards. A value that does not depend on the machine is compared once.
    `UsageError` where a label or the metric is on no board, and where no board has both.
    """
    boards = labelled_together(boards)
    labels = {line.label for board in boards for line in board.lines}
    for label in (first, second):
        if label not in labels:
            raise unknown("mechanism", label, labels, "Labels are those of cab report --full.")
    names = {each.name for each in metrics_of(boards)}
    if metric and metric not in names:
        raise unknown("metric", metric, names)
    pairs: dict[str, Comparison] = {}
    for board in boards:
        chosen = next((each for each in board.metrics if each.name == metric), None) if metric else board.headline
        lines = {line.label: line for line in board.lines}
        if chosen is None or first not in lines or second not in lines:
            continue
        above, below = (lines[label].cells.get(chosen.name) for label in (first, second))
        if above is not None and below is not None and above.value is not None and below.value is not None:
            values = [(cell.value, cell.interval) for cell in (above, below)]
            pairs.setdefault(str([board.question, chosen.name, values]), Comparison(board, chosen, above, below))
    if not pairs:
        what = metric or "the same metric"
        longer = sorted(label for label in labels if label.startswith((f"{first} ", f"{second} ")))
        others = f"; boards of cost name the backend, too: {', '.join(longer)}" if longer else ""
        raise UsageError(
            f"no board has a value of {what} for both {first} and {second}; measure both on one task{others}"
        )
    return list(pairs.values())


def ratio(above: Cell | None, below: Cell | None) -> Interval | None:
    """Return the ratio of two positive values with its interval: the arms are added as squares on the log scale."""
    if above is None or below is None or not above.value or not below.value or min(above.value, below.value) <= 0:
        return None
    value = above.value / below.value
    (low, high), (low_below, high_below) = above.interval, below.interval
    if above.interval_unknown or below.interval_unknown or min(low, low_below) <= 0:
        return value, None, None
    down = hypot(log(above.value / low), log(high_below / below.value))
    up = hypot(log(high / above.value), log(below.value / low_below))
    return value, value * exp(-down), value * exp(up)


def difference(above: Cell, below: Cell) -> Interval:
    """Return the difference of two values with its interval: the arms are added as squares."""
    assert above.value is not None and below.value is not None
    value = above.value - below.value
    if above.interval_unknown or below.interval_unknown:
        return value, None, None
    (low, high), (low_below, high_below) = above.interval, below.interval
    down, up = hypot(above.value - low, high_below - below.value), hypot(high - above.value, below.value - low_below)
    return value, value - down, value + up
