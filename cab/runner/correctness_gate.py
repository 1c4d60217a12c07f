"""What may be measured: a source that is still what was planned, and whose laws hold."""

from collections.abc import Callable, Sequence

from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.plugins import fingerprint
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
    """The laws of a run's cases, each asked once; `ask` runs them in a child."""

    def __init__(self, ask: Callable[[Measurement], Outcome]) -> None:
        self._ask = ask
        self._verdicts: dict[str, Outcome | None] = {}  # by the verdict's key: None where the laws hold

    def against(self, measurement: Measurement) -> Outcome | None:
        """Return why nothing of this measurement's case may be measured, or None where the laws hold."""
        name = verdict_cache.key(measurement.case)
        if name not in self._verdicts:
            verdict = verdict_cache.kept(name)
            if verdict is None:
                outcome = CHANGED if has_changed(measurement) else self._ask(measurement)
                # a child may have imported what was there before: the verdict would be kept for what is there now
                if outcome is CHANGED or has_changed(measurement):
                    return CHANGED
                if outcome.status != "ok":  # not tried again for every measurement
                    status = "error" if outcome.status == "usage" else outcome.status
                    reason = f"the laws could not be run: {outcome.reason}"
                    self._verdicts[name] = Outcome(status, reason, output=outcome.output)
                    return self._verdicts[name]
                verdict = outcome.answer
                verdict_cache.keep(name, verdict)
            self._verdicts[name] = _wrong(verdict.failures, measurement.case.mechanism)
        return self._verdicts[name]


def _wrong(failures: Sequence[str], mechanism: str) -> Outcome | None:
    if not failures:
        return None
    more = f" (and {len(failures) - 1} more: cab check {mechanism})" if len(failures) > 1 else ""
    return Outcome("wrong", f"law {failures[0]}{more}")
