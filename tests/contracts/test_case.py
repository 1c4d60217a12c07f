"""A case is one question: its JSON is canonical, and its status the worst of its metrics'."""

import pytest

from cab.contracts.case import Case, canonical, worst

CASE = Case(
    mechanism="softmax",
    params={"chunk": 8},
    pattern="NC",
    task="speed",
    task_params={},
    n=4,
    m=6,
    batch=2,
    heads=1,
    dim=8,
    dtype="float32",
    device="cpu",
    backend="eager",
    level="attend",
    pass_="forward",
    seed=0,
    scale="quick",
    settings={"padding": 0.5},
)


def test_a_case_survives_its_json() -> None:
    assert Case.of(CASE.question()) == CASE and Case.of(CASE.question()).id == CASE.id


def test_the_worst_status_is_the_cases() -> None:
    assert worst(["ok", "skipped"]) == "skipped" and worst(["oom", "wrong", "error"]) == "wrong"
    assert worst(["ok"]) == "ok" and worst([]) == "skipped"


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical({"b": 1, "a": [1, 2.5, None]}) == '{"a":[1,2.5,null],"b":1}'
    with pytest.raises(ValueError):
        canonical(float("nan"))
