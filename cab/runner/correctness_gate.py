"""What may be measured: a source that is still what was planned, and whose laws hold."""

from collections.abc import Callable

from cab.errors import UsageError
from cab.planning.plan import Item
from cab.plugins import fingerprint
from cab.runner import verdict_cache
from cab.runner.outcomes import Answer

CHANGED = Answer(
    "error", "the source changed during the run; the same command again measures what it is now", again=True
)


def has_changed(item: Item) -> bool:
    """Whether mechanism or task are no longer what was planned: a child may have imported either."""
    try:
        return fingerprint.of(*item.files) != item.source
    except UsageError:  # it cannot be read any more
        return True


class Laws:
    """The laws of a run's cases, each asked once; `ask` runs them in a child."""

    def __init__(self, ask: Callable[[Item], Answer]) -> None:
        self._ask = ask
        self._found: dict[str, Answer | None] = {}  # by the verdict's key: None where the laws hold

    def against(self, item: Item) -> Answer | None:
        """Return why nothing of this item's case may be measured, or None where the laws hold."""
        name = verdict_cache.key(item.case)
        if name not in self._found:
            verdict = verdict_cache.kept(name)
            if verdict is None:
                answer = CHANGED if has_changed(item) else self._ask(item)
                # a child may have imported what was there before: the verdict would be kept for what is there now
                if answer is CHANGED or has_changed(item):
                    return CHANGED
                if answer.status != "ok":  # not tried again for every item
                    status = "error" if answer.status == "usage" else answer.status
                    reason = f"the laws could not be run: {answer.reason}"
                    self._found[name] = Answer(status, reason, output=answer.output)
                    return self._found[name]
                verdict = answer.value
                verdict_cache.keep(name, verdict)
            self._found[name] = _wrong(verdict["failures"], item.case.mechanism)
        return self._found[name]


def _wrong(failures: list[str], mechanism: str) -> Answer | None:
    if not failures:
        return None
    more = f" (and {len(failures) - 1} more: cab check {mechanism})" if len(failures) > 1 else ""
    return Answer("wrong", f"law {failures[0]}{more}")
