"""What became of a child: its answer, or the status that its death stands for."""

import signal

import pytest

from cab.contracts.messages import ChildExit, CompareAnswer, Failure
from cab.runner.fork_client import Ending
from cab.runner.outcomes import Outcome, outcome_of

GIB = 2**30


def test_a_reason_can_be_printed_and_kept() -> None:
    assert Outcome("error", "no file \udc80").reason == "no file ?"


@pytest.mark.parametrize(
    ("child_exit", "status", "reason"),
    [
        (ChildExit("deadline", None, signal.SIGKILL, GIB, 3.0), "timeout", "took more than 3 s"),
        (ChildExit("ended", None, signal.SIGKILL, GIB, 1.0), "error", "killed by SIGKILL"),
        (ChildExit("ended", None, signal.SIGKILL, 9 * GIB, 1.0), "oom", "killed by SIGKILL at 9.0 GiB of 10.0 GiB"),
        (ChildExit("ended", 9, None, 9 * GIB, 1.0), "error", "exited with code 9 and left no result"),
    ],
)
def test_a_child_without_an_answer_died(child_exit: ChildExit, status: str, reason: str) -> None:
    outcome = outcome_of(Ending(None, child_exit, "printed"), deadline=3, limit=10 * GIB)
    assert (outcome.status, outcome.reason, outcome.output, outcome.died) == (status, reason, "printed", True)


def test_an_answer_counts_unless_the_deadline_came_first() -> None:
    answer = CompareAnswer()
    ended = ChildExit("ended", 0, None, 0, 1.0)
    assert outcome_of(Ending(answer, ended, ""), 3, GIB) == Outcome("ok", answer=answer)
    assert outcome_of(Ending(Failure("wrong", "off"), ended, "traceback"), 3, GIB) == Outcome(
        "wrong", "off", output="traceback"
    )
    assert outcome_of(Ending(answer, ChildExit("deadline", None, 9, 0, 3.0), ""), 3, GIB).status == "timeout"
