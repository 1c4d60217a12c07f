"""What may be measured: a source that is still what was planned, and a mechanism whose laws hold."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.plugins import fingerprint, registry
from cab.runner import verdict_cache
from cab.runner.outcomes import Outcome

CHANGED = Outcome(
    "error", "the source changed during the run; the same command again measures what it is now", again=True
)


def has_changed(measurement: Measurement) -> bool:
    """Whether mechanism or task are no longer what was planned: a child may have imported either."""
    try:
        return fingerprint.of(*measurement.files) != measurement.source
    except UsageError:  # it cannot be read any more
        return True


class Laws:
    """The laws of a run's cases. Each verdict is asked for once: of the cache, and else of a child."""

    def __init__(self) -> None:
        self._objections: dict[str, Outcome | None] = {}  # by the verdict's key; None where the laws hold

    def unknown(self, measurements: Iterable[Measurement]) -> list[Measurement]:
        """Return one measurement of each verdict that a child would have to give."""
        asked = [each for measured in measurements for each in under_laws(measured)]
        by_key = dict(zip(verdict_cache.keys(each.case for each in asked), asked, strict=True))
        return [each for key, each in by_key.items() if key not in self._objections and verdict_cache.load(key) is None]

    def objection(self, measurement: Measurement, run: Callable[[Measurement], Outcome]) -> Outcome | None:
        """Return why nothing of this measurement's case may be measured, or None where the laws hold.

        `run` runs the laws in a child: its outcome has a `LawsAnswer`.
        """
        for each in _in_every_slot(measurement):
            if objection := self._objection(each, run):
                return objection
        return None

    def _objection(self, measurement: Measurement, run: Callable[[Measurement], Outcome]) -> Outcome | None:
        key = verdict_cache.key(measurement.case)
        if key in self._objections:
            return self._objections[key]
        verdict = verdict_cache.load(key)
        if verdict is None:
            outcome = CHANGED if has_changed(measurement) else run(measurement)
            # the verdict would be kept for what lies there now, and the child may have imported what was there before
            if outcome is CHANGED or has_changed(measurement):
                return CHANGED
            if outcome.status != "ok":
                self._objections[key] = _not_run(outcome)
                return self._objections[key]
            verdict = outcome.answer
            verdict_cache.keep(key, verdict)
        self._objections[key] = _broken(verdict.failures, measurement.case.mechanism)
        return self._objections[key]


def under_laws(measurement: Measurement) -> list[Measurement]:
    """Return a measurement of each case that must be lawful: the mechanism's and its baseline's, in every slot."""
    baseline = measurement.case.baseline()
    both = [measurement, *([replace(measurement, case=baseline)] if baseline else [])]
    return [in_slot for each in both for in_slot in _in_every_slot(each)]


def _in_every_slot(measurement: Measurement) -> list[Measurement]:
    """Return the measurement, and with task.others=same one in each other pattern that the task has slots of."""
    case = measurement.case
    patterns = registry.card("task", case.task).facts["slots"] if case.others == "same" else ()
    others = [replace(case, pattern=pattern) for pattern in patterns if pattern != case.pattern]
    return [measurement, *(replace(measurement, case=other) for other in others)]


def _not_run(outcome: Outcome) -> Outcome:
    status = "error" if outcome.status == "usage" else outcome.status
    return Outcome(status, f"the laws could not be run: {outcome.reason}", output=outcome.output)


def _broken(failures: Sequence[str], mechanism: str) -> Outcome | None:
    if not failures:
        return None
    more = f" (and {len(failures) - 1} more: cab check {mechanism})" if len(failures) > 1 else ""
    return Outcome("wrong", f"law {failures[0]}{more}")
