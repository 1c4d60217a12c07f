"""What tasks with real data share: splits that do not depend on the seed, and examples spread over a split."""

from typing import Any

import pytest

from cab.errors import UsageError
from cab.plugins import registry
from cab.suites.real_data import RealDataTask

CAB = ("cab_lm", "cab_lstf", "cab_mlm", "cab_pcc", "cab_sr", "cab_sum", "cab_tts_fastspeech2", "cab_tts_transformer")
LRA = ("lra_image", "lra_pathfinder", "lra_pathx", "lra_retrieval", "lra_text")


@pytest.fixture
def task() -> RealDataTask:
    """A task with 10, 3 and 0 examples."""
    task = RealDataTask(seq_len=1)
    task.splits = {"train": list(range(10)), "validation": [0, 1, 2], "test": []}
    return task


@pytest.mark.parametrize("name", CAB + LRA)
def test_tasks_with_real_data_have_one_way_to_return_a_split(name: str) -> None:
    cls: Any = registry.load("task", name)
    assert issubclass(cls, RealDataTask) and cls.split is RealDataTask.split


def test_a_split_is_that_of_the_source_whatever_the_seed(task: RealDataTask) -> None:
    assert task.split("train", 0) is task.split("train", 1) is task.splits["train"]
    assert task.counts() == {"train": 10, "validation": 3, "test": 0}


def test_an_unknown_split_and_one_before_the_source_are_refused(task: RealDataTask) -> None:
    with pytest.raises(UsageError, match="unknown split 'valid'; did you mean 'validation'"):
        task.split("valid", 0)
    with pytest.raises(UsageError, match="Call source"):
        RealDataTask(seq_len=1).split("train", 0)


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [0]), (2, [0, 5]), (3, [0, 4, 8]), (4, [0, 3, 6, 9]), (9, [0, 2, 4, 6, 8])]
)
def test_examples_are_evenly_spread_and_no_more_than_asked_for(
    task: RealDataTask, most: int, expected: list[int]
) -> None:
    assert task.spread("train", most) == expected
    assert task.spread("validation", 3) == task.spread("validation", 99) == [0, 1, 2]
    assert task.spread("test", most) == []
