"""A small case, workloads of it, and a workload that runs a function of the test's own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cab.mechanisms.softmax import Softmax
from cab.tasks.speed import Speed

from cab import Mechanism
from cab.contracts.case import Case
from cab.worker.workload import Workload, build

MakeWorkload = Callable[..., Workload]


@pytest.fixture
def case() -> Case:
    """One forward pass of softmax attention on 48 tokens."""
    return Case(
        mechanism="softmax",
        params={},
        pattern="NS",
        task="speed",
        task_params={},
        n=48,
        m=48,
        batch=3,
        heads=4,
        dim=16,
        dtype="float32",
        device="cpu",
        backend="eager",
        level="attend",
        pass_="forward",
        seed=0,
        scale="quick",
    )


@pytest.fixture
def make_workload(case: Case) -> MakeWorkload:
    """`make_workload(mechanism, **changes)` builds the case's workload with another mechanism and other fields."""

    def make(mechanism: type[Mechanism] = Softmax, **changes: Any) -> Workload:
        return build(replace(case, **changes), Speed, mechanism, Softmax, Path("data"))

    return make


@pytest.fixture
def stub_workload() -> Callable[..., Any]:
    """`stub_workload(run, **attributes)` has what meters read of a workload, and `run` for its pass."""

    def make(run: Callable[[], Any] = lambda: None, device: str = "cpu", **attributes: Any) -> Any:
        usual = {"has_run": True, "calls": 1, "module": torch.nn.Identity(), "device": torch.device(device)}
        return SimpleNamespace(run=run, **{**usual, **attributes})

    return make


@pytest.fixture
def values_of() -> Callable[[Any, Workload], dict[str, float]]:
    """`values_of(meter, workload)` measures, and reduces what the store would keep: the measurements as JSON."""

    def measure(meter: Any, workload: Workload) -> dict[str, float]:
        results = json.loads(json.dumps(meter.measure(workload, workload.case)))
        assert set(results) == set(meter.applies(workload.case))
        return {name: meter.reduce(name, [result]).value for name, result in results.items() if "samples" in result}

    return measure
