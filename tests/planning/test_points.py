"""Overrides to grid points: the product over all keys, what takes precedence, and which keys there are."""

from collections.abc import Callable

import pytest

from cab.errors import UsageError
from cab.planning.plan import case_of
from cab.planning.points import points


def test_choices_multiply_with_the_last_key_fastest() -> None:
    expanded = points(["task=speed", "mechanism=softmax,none", "pattern=NS,CC", "seed=0,1"])
    assert [(point.mechanism.name, point.root["pattern"], point.root["seed"]) for point in expanded] == [
        (mechanism, pattern, seed) for mechanism in ("softmax", "none") for pattern in ("NS", "CC") for seed in (0, 1)
    ]


def test_precedence_is_config_task_scale_grid_command_line(add_option: Callable[..., None]) -> None:
    task = {
        "name": "speed",
        "case": {"seq_len": 10, "batch": 10, "heads": 10, "dim": 10},
        "scales": {"quick": {"batch": 20, "heads": 20, "dim": 20}},
    }
    add_option("task", "sized", task)
    add_option("grid", "g", {"blocks": [["task=sized", "heads=30", "dim=30"]]})
    (point,) = points(["mechanism=none", "grid=g", "dim=40"])
    assert {key: point.root[key] for key in ("seq_len", "batch", "heads", "dim")} == {
        "seq_len": 10,
        "batch": 20,
        "heads": 30,
        "dim": 40,
    }


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["mechanism=sofmax"], "unknown mechanism 'sofmax'; did you mean 'softmax'"),
        (["mechanism=softmax", "task=sped"], "unknown task 'sped'; did you mean 'speed'"),
        (["mechanism=softmax", "sequence=3"], "unknown key 'sequence'"),
        (["mechanism=softmax", "seq_length=3"], "did you mean 'seq_len'"),
        (["mechanism=softmax", "training.lrr=3"], "did you mean 'training.lr'"),
        (["mechanism=softmax", "trainer.lr=3"], "unknown key 'trainer.lr'"),
        (["mechanism=softmax", "training=3"], "unknown key 'training'"),
        (["mechanism=softmax", "scale=papr"], "unknown scale of speed 'papr'.*did you mean 'paper'"),
        (["mechanism=softmax", "scale=[quick]"], "unknown scale of speed"),
        (["mechanism=linear", "task=lra_text", "scale=huge"], "unknown scale"),
        ([], "which mechanism.*Accepted: "),
        (["mechanism=softmax", "steps=100"], "did you mean 'training.steps'"),
        (["mechanism=softmax", "--threads"], "written without dashes: threads=VALUE"),
        (["mechanism=./nowhere.py:Mine"], "there is no file"),
    ],
)
def test_what_is_not_there_is_named(asked: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        points(["task=speed", *asked])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "speed", "case": {"seq_length": 3}}, "did you mean 'seq_len'"),
        ({"name": "speed", "case": {"training": {"lrr": 3}}}, "did you mean 'lr'"),
        ({"name": "speed", "scales": {"quick": {"task": {"sizes": 3}}}}, "unknown key in conf/task/mine.yaml: task"),
        ({"name": "speed", "sizes": 3}, "conf/task/mine.yaml sets 'sizes', which Speed does not take"),
    ],
)
def test_what_a_tasks_yaml_sets_must_exist(content: object, message: str, add_option: Callable[..., None]) -> None:
    add_option("task", "mine", content)
    with pytest.raises(UsageError, match=message):
        points(["mechanism=softmax", "task=mine"])


def test_others_multiply_and_are_part_of_the_case_unless_they_are_softmax() -> None:
    expanded = points(["task=cab_lstf", "mechanism=linear,abc", "task.others=softmax,none,same"])
    assert [(point.mechanism.name, point.others) for point in expanded] == [
        (mechanism, others) for mechanism in ("linear", "abc") for others in ("softmax", "none", "same")
    ]
    cases = [case_of(point) for point in expanded]
    assert len({case.id for case in cases}) == 6
    (plain,) = points(["task=cab_lstf", "mechanism=linear"])
    assert case_of(plain) == cases[0] and "others" not in cases[0].settings
    assert all("others" not in case.task_params for case in cases)  # the task knows no mechanism
    with pytest.raises(UsageError, match="task.others 'nothing'"):
        points(["task=cab_lstf", "mechanism=linear", "task.others=nothing"])
