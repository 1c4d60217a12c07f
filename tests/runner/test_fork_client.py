"""A job has a child of its own; the death of the fork server is noticed and says why."""

from pathlib import Path

import pytest

from cab.contracts.messages import Failure, PreflightAnswer, PreflightJob
from cab.runner.fork_client import ForkClient, ServerDied


def test_a_dead_server_says_why(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    (elsewhere / "sitecustomize.py").write_text("raise SystemExit('no torch here')\n")
    with ForkClient() as client, pytest.raises(ServerDied, match="no torch here"):
        client.run(PreflightJob([], "."), 10, None)


def test_a_job_is_answered_and_leaves_no_file(server: ForkClient, elsewhere: Path) -> None:
    for _ in range(2):
        ending = server.run(PreflightJob([], "."), 60, None)
        assert ending.answer == PreflightAnswer({}, {}) and (ending.exit.why, ending.exit.exit) == ("ended", 0)
    assert not [path for path in server._folder.iterdir() if path.is_dir()]


def test_a_deadline_ends_the_child_and_not_the_server(server: ForkClient, elsewhere: Path) -> None:
    ending = server.run(PreflightJob([], "."), 0.0, None)
    assert ending.exit.why == "deadline" and not isinstance(ending.answer, Failure)
    assert server.run(PreflightJob([], "."), 60, None).exit.why == "ended"
