"""What became of a job: the child's answer, or the status that its death stands for."""

from dataclasses import dataclass
from typing import Any

from cab.contracts.messages import Failure
from cab.runner.fork_client import Ending, describe

NEAR_LIMIT = 0.8  # share of its memory limit: a child that was killed beyond it ran out of memory


@dataclass(frozen=True)
class Outcome:
    """What became of a job, or of one meter in it."""

    status: str
    reason: str = ""
    answer: Any = None  # of cab.contracts.messages; None unless the status is ok
    output: str = ""  # what the child printed
    died: bool = False  # the child left no answer
    again: bool = False  # not a result that stands: the next run measures anew

    def __post_init__(self) -> None:
        """Make the reason a text that can be printed and kept, whatever bytes a file name in it has."""
        object.__setattr__(self, "reason", self.reason.encode(errors="replace").decode())

    @classmethod
    def of(cls, answer: Any, output: str = "") -> "Outcome":
        """Return the outcome that an answer stands for."""
        if isinstance(answer, Failure):
            return cls(answer.status, answer.reason, output=output)
        return cls("ok", answer=answer, output=output)


def outcome_of(ending: Ending, deadline: float, limit: int) -> Outcome:
    """Return what a child answered, or how it died within `deadline` seconds and `limit` bytes."""
    if ending.answer is not None and ending.exit.why == "ended":
        return Outcome.of(ending.answer, ending.output)
    if ending.exit.why == "deadline":
        return Outcome("timeout", f"took more than {deadline:g} s", output=ending.output, died=True)
    death = describe(ending.exit)
    if ending.exit.signal is not None and ending.exit.peak > NEAR_LIMIT * limit:
        reason = f"{death} at {ending.exit.peak / 2**30:.1f} GiB of {limit / 2**30:.1f} GiB"
        return Outcome("oom", reason, output=ending.output, died=True)
    return Outcome("error", death, output=ending.output, died=True)
