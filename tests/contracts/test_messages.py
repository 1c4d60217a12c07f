"""Every message survives its JSON, whatever hyper-parameters, metrics and files are called."""

import json
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cab.contracts import messages
from cab.contracts.case import Case
from cab.contracts.messages import (
    CaseForecast,
    ChildExit,
    CompareAnswer,
    CompareJob,
    Failure,
    ForecastAnswer,
    ForecastJob,
    LawsAnswer,
    LawsJob,
    MeasureAnswer,
    MeasureJob,
    PeakAnswer,
    PeakJob,
    PreflightAnswer,
    PreflightJob,
    Ready,
    Request,
    Samples,
    TrainAnswer,
    TrainJob,
    decode,
    encode,
)

CASE = Case(
    mechanism="softmax",
    params={"chunk": 8, "rate": 0.5, "gate": None, "shape": [1, 2]},
    pattern="NS",
    task="speed",
    task_params={"layers": 2},
    n=4,
    m=4,
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
    settings={"training": {"steps": 3}},
)
FORECASTS = {CASE.id: CaseForecast(1e9, 2e6), "other": CaseForecast(reason="no meta kernel")}
SAMPLES = Samples({"latency": {"samples": [1.0, 2.0], "warm_up": 3}})
MESSAGES = [
    CASE,
    FORECASTS[CASE.id],
    SAMPLES,
    Failure("oom", "3 GiB of 2 GiB"),
    Ready(),
    ChildExit("ended", None, 9, peak=2**31, seconds=0.5),
    Request(CompareJob(CASE, "data", 1), 600.0, None, "answer", "output", "progress", "/home"),
    PreflightJob([CASE], "data"),
    PreflightAnswer({CASE.id: "too short"}, {CASE.id: "leaky"}),
    LawsJob("softmax", "NS", {"chunk": 8}, "eager", "cpu"),
    LawsAnswer(["heads: they mix"], {"modes": "it draws"}, 30),
    MeasureJob(CASE, "data", 2, ["latency"], pinned=True, compared=True, device_memory=2**30),
    MeasureAnswer({"latency": SAMPLES, "memory": Failure("error", "it went wrong")}, True, 1.5),
    CompareJob(CASE, "data", 1),
    CompareAnswer(),
    TrainJob(CASE, "data", 1, "state.safetensors"),
    TrainAnswer(
        metrics={"accuracy": {"samples": [1.0, 0.0]}},
        curve=[{"step": 1, "validation": {"accuracy": 0.5}}],
        best_step=1,
        stopped="",
        notes=["resumed"],
        floors={"chance": {"accuracy": 0.5}},
        source={"name": "generated", "comparable": False, "counts": {"train": 3}, "note": ""},
    ),
    ForecastJob([CASE], "data", 1),
    ForecastAnswer(FORECASTS, 1e11),
    PeakJob("cuda:0", 1),
    PeakAnswer({"float32": 1e12}, 1e11),
]

names = st.text() | st.sampled_from([messages._CLASS, messages._ITEMS, "items", "Case", "self"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(names | st.integers(), inner))


def test_there_is_an_example_of_every_message() -> None:
    assert {type(message) for message in MESSAGES} == set(messages._CLASSES.values())
    assert {*get_args(messages.Job), *get_args(messages.Answer)} <= set(messages._CLASSES.values())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_its_json(message: Any) -> None:
    text = encode(message)
    assert "\n" not in text  # on a socket a message is a line
    decoded = decode(text)
    assert decoded == message and type(decoded) is type(message)
    assert decode(encode(decoded)) == message


@given(value=values)
def test_a_hyperparameter_survives_whatever_its_keys_are(value: Any) -> None:
    job = LawsJob("softmax", "NS", {"odd": value, messages._CLASS: value}, "eager", "cpu")
    assert decode(encode(job)) == job
    case = replace(CASE, params={"odd": value})
    assert decode(encode(case)) == case


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused(number: float) -> None:
    with pytest.raises(ValueError):
        encode(Samples({"latency": {"samples": [1.0, number]}}))


def test_what_is_no_message_is_refused() -> None:
    @dataclass
    class Case:
        """Of another module, by the name of a message."""

    for value in (object(), Case(), {1, 2}):
        with pytest.raises(TypeError):
            encode(Samples({"latency": {"samples": [value]}}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        json.dumps({messages._CLASS: "Nothing"}),
        json.dumps({messages._CLASS: "Failure", "status": "ok"}),
        json.dumps({messages._CLASS: "Ready", "more": 1}),
        json.dumps({messages._CLASS: ["Ready"]}),
        json.dumps({messages._CLASS: messages._ITEMS, "items": 3}),
        b"\xff\xfe{",
    ],
)
def test_a_text_that_holds_no_message_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        decode(text)
