"""Extrapolation scores one model at four lengths, and says of each that it cannot have why."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cab.errors import Unsupported
from cab.meters.extrapolation import Extrapolation
from cab.planning.plan import plan
from cab.training import train
from cab.worker import trained_model
from cab.worker.task_setup import build_task


def trained(refused: float | None = None) -> Any:
    """Return a trained model whose examples have 8 tokens, and which is right on one of two labels."""

    def at_length(factor: float) -> Any:
        if factor == refused:
            raise Unsupported(f"no {factor}")
        return SimpleNamespace(seq_len=int(8 * factor), source_len=int(8 * factor))

    def scores(task: Any, model: str) -> dict[str, list[Any]]:
        assert model == ("own" if task.seq_len <= 8 else f"for {task.seq_len}")
        return {"accuracy": [[1.0, 2.0]] * 4}

    def model_of(task: Any) -> str:
        return f"for {task.seq_len}"

    return SimpleNamespace(task=SimpleNamespace(at_length=at_length), model="own", scores=scores, model_of=model_of)


def test_a_model_is_its_own_up_to_its_length_and_built_anew_beyond() -> None:
    results = Extrapolation().measure(trained(), None)
    assert [results[name]["n"] for name in Extrapolation.metrics] == [2, 4, 8, 16]
    reading = Extrapolation().reduce("accuracy_double", [results["accuracy_double"]])
    assert reading.value == 0.5 and reading.stop_reason == "n=16"


@pytest.mark.parametrize(("factor", "name"), [(0.25, "accuracy_quarter"), (2.0, "accuracy_double")])
def test_a_length_that_cannot_be_had_costs_its_own_metric_alone(factor: float, name: str) -> None:
    results = Extrapolation().measure(trained(refused=factor), None)
    assert results.pop(name) == {"status": "unsupported", "reason": f"no {factor}"}
    assert all("samples" in result for result in results.values())


@pytest.mark.long
def test_softmax_that_has_learnt_recall_answers_at_every_length(tmp_path: Path) -> None:
    asked = ["mechanism=softmax", "task=recall_ns", "meters=[extrapolation]", "training.test=500"]
    (measurement,) = plan(asked).measurements
    case, checkpoint = measurement.case, tmp_path / "checkpoint"
    task = build_task(case)
    model, _ = trained_model.build_model(case, task)
    train(
        task, model, tmp_path, case.settings["training"], batch=case.batch, seed=0, device="cpu", checkpoint=checkpoint
    )
    trained = trained_model.load(replace(case, settings=case.settings | {"checkpoint": str(checkpoint)}), tmp_path)
    results = Extrapolation().measure(trained, case)
    assert [results[name]["n"] for name in Extrapolation.metrics] == [24, 48, 96, 192]
    # 250 steps with 96 tokens; chance is 1 of 64
    for name, result in results.items():
        assert Extrapolation().reduce(name, [result]).value > 0.99, name
