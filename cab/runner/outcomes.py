"""How a child ended, as an answer: what it returned, or the status that its death stands for."""

from dataclasses import dataclass, field
from typing import Any

from cab.runner.fork_client import Ending, describe

NEAR = 0.8  # a child that was killed with this share of its memory used ran out of it


@dataclass(frozen=True)
class Answer:
    """What became of a job, or of one meter in it."""

    status: str
    reason: str = ""
    value: dict[str, Any] = field(default_factory=dict)
    output: str = ""
    died: bool = False  # the child returned nothing
    again: bool = False  # not an answer that stands: the next run asks anew

    def __post_init__(self) -> None:
        """Make the reason a text that can be printed and kept: of an undecodable file name, say."""
        object.__setattr__(self, "reason", self.reason.encode(errors="replace").decode())

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Answer":
        """Read what a child returned."""
        if "ok" in given:
            return cls("ok", value=given["ok"])
        return cls(given["status"], given["reason"])


def judged(ending: Ending, deadline: float, limit: int) -> Answer:
    """Return what a child answered, or how it died within `deadline` seconds and `limit` bytes."""
    if ending.result is not None and ending.why == "ended":
        answer = Answer.of(ending.result)
        return Answer(answer.status, answer.reason, answer.value, ending.output)
    if ending.why == "deadline":
        return Answer("timeout", f"took more than {deadline:g} s", output=ending.output, died=True)
    died = describe(ending)
    if ending.signal is not None and ending.peak > NEAR * limit:
        reason = f"{died} at {ending.peak / 2**30:.1f} GiB of {limit / 2**30:.1f} GiB"
        return Answer("oom", reason, output=ending.output, died=True)
    return Answer("error", died, output=ending.output, died=True)
