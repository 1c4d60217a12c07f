"""What a child does for a job: what meters return is checked, and memory on a GPU is held to its limit."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cab.contracts.messages import Failure, LawsJob
from cab.errors import Unsupported, UsageError, Wrong
from cab.worker import jobs


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, 'measure() is NoneType, not {metric: {"samples": [...]}}'),
        ({"number": 3.0}, 'measure()["number"] is float, not {"samples": [...]}'),
        ({"number": {"value": 3.0}}, """measure()["number"] has the keys ['value'], not "samples\""""),
    ],
)
def test_what_a_meter_returns_is_checked(returned: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        jobs._samples(returned)


@pytest.mark.parametrize("sample", [np.float32(1), float("nan"), float("inf")])
def test_samples_that_no_file_can_hold_are_refused(sample: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="finite numbers of Python"):
        jobs._samples({"number": {"samples": [sample]}})


def test_on_a_gpu_the_allocator_is_held_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    held: list[tuple[float, int]] = []
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**33))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: held.append((share, device))
    )
    for device in ("cuda", "cuda:1"):  # an index: neither function takes the name alone
        jobs._use_device(device, 2**30)
    jobs._use_device("cuda:2", None)
    jobs._use_device("cpu", None)
    assert held == [(0.125, 0), (0.125, 1)] and current == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (Unsupported("no kernel"), Failure("unsupported", "no kernel")),
        (Wrong("off by 1"), Failure("wrong", "off by 1")),
        (UsageError("no such task"), Failure("usage", "no such task")),
        (MemoryError(), Failure("oom", "out of memory")),
        (RuntimeError("first line\nsecond"), Failure("error", "RuntimeError: first line")),
        (SystemExit(3), Failure("error", "SystemExit: 3")),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_exception_has_a_status(error: BaseException, failure: Failure) -> None:
    assert jobs.failure(error) == failure


def test_an_error_names_the_line_of_the_plug_in() -> None:
    try:
        [].pop()
    except IndexError as error:
        found = jobs.failure(error, [__file__])
    line = test_an_error_names_the_line_of_the_plug_in.__code__.co_firstlineno + 2
    assert found == Failure("error", f"IndexError: pop from empty list (test_jobs.py:{line})")


IN_PLACE = """
from cab import Mechanism


class Mine(Mechanism):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        q.data.mul_(2)
        return q.mean(-1, keepdim=True) * k.mean((2, 3), keepdim=True) * v
"""


def test_the_failure_that_others_follow_from_comes_first(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(IN_PLACE)
    answer = jobs.laws(LawsJob("./mine.py:Mine", "NS", {}, "eager", "cpu"))
    assert answer.failures[0] == "untouched: q was modified" and len(answer.failures) > 2
