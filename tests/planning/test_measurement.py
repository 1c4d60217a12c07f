"""A measurement travels to another machine and has there the key that planning on that machine gives it."""

import json
from dataclasses import replace

import pytest

from cab import environment
from cab.planning.measurement import Measurement
from cab.planning.plan import on_this_machine, plan

GRID = ["mechanism=none", "task=speed", "seq_len=16", "meters=[latency,flops]"]


def test_a_measurement_comes_back_from_json() -> None:
    for measurement in plan([*GRID, "pattern=NC,CC", "mechanism=linformer"]).measurements:
        refused = replace(measurement, refusal=("unsupported", "why"))
        for each in (measurement, refused):
            assert Measurement.from_json(json.loads(json.dumps(each.to_json()))) == each


def test_planned_elsewhere_it_has_the_key_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = plan(GRID).measurements
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(environment.platform, "node", lambda: "login-node")
        planned_elsewhere = plan(GRID).measurements
    latency, flops = (each.file for each in planned_elsewhere)
    assert latency != here[0].file and flops == here[1].file, "the host matters for timings alone"
    assert [on_this_machine(each) for each in planned_elsewhere] == here


def test_what_a_machine_lacks_is_refused_there_alone() -> None:
    measurement = plan(GRID).measurements[0]
    lacking = measurement.on(measurement.identity, "no counters")
    assert lacking.refusal == ("unsupported", "no counters") and lacking.key != measurement.key
    assert lacking.on(measurement.identity) == measurement
    refused = replace(measurement, refusal=("unsupported", "not causal"))
    assert refused.on({"host": "other"}, "no counters").refusal == ("unsupported", "not causal")
