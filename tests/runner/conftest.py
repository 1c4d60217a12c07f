"""A fork server for all tests of a process, and laws that are taken as held."""

from collections.abc import Iterator

import pytest

from cab.contracts.messages import LawsAnswer
from cab.runner import verdict_cache
from cab.runner.fork_client import ForkClient


@pytest.fixture(scope="session")
def server() -> Iterator[ForkClient]:
    with ForkClient() as client:
        yield client


@pytest.fixture
def lawful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the laws as held: they have tests of their own."""
    monkeypatch.setattr(verdict_cache, "load", lambda key: LawsAnswer([], {}, 1))
