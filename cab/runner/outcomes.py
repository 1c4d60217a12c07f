"""How a child ended, as an answer: what it returned, or the status that its death stands for."""

from cab.runner.entries import Answer
from cab.runner.fork_client import Ending, describe

NEAR = 0.8  # a child that was killed with this share of its memory used ran out of it


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
