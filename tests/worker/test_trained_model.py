"""What a trained model gives meters: what its first attention layer reads, and its weights at other lengths."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cab.errors import Unsupported
from cab.meters.robustness import Corrupted
from cab.planning.plan import plan
from cab.worker.task_setup import build_task
from cab.worker.trained_model import TrainedModel, build_model

SMALL = ["task=recall_ns", "seq_len=24", "task.pairs=16", "task.halvings=0", "batch=2", "dim=4", "meters=[quality]"]


def model(mechanism: str, *more: str) -> TrainedModel:
    """Return a model with the weights that it was built with."""
    (measurement,) = plan([f"mechanism={mechanism}", *SMALL, "training.test=4", *more]).measurements
    task = build_task(measurement.case)
    task.source(Path())
    built, mechanisms = build_model(measurement.case, task)
    return TrainedModel(measurement.case, task, built.eval(), mechanisms, built.state_dict())


def test_the_first_layers_arguments_give_its_output() -> None:
    trained = model("softmax")
    outputs: list[Tensor] = []
    trained.mechanisms[0].register_forward_hook(lambda module, args, out: outputs.append(out))
    copy, examples = trained.first_attention()
    assert len(examples) == 4 == len(outputs)
    for arguments, output in zip(examples, [*outputs], strict=True):
        assert arguments["q"].shape == (1, 2, 24, 4) and arguments["q"].dtype is torch.float64
        torch.testing.assert_close(copy(**arguments).float(), output, rtol=1e-4, atol=1e-5)


def test_of_the_calls_of_a_decoding_that_of_all_tokens_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = model("softmax")
    score = trained.task.score

    def decodes_first(built: Any, batch: Any) -> Any:
        q = torch.zeros(1, 2, 1, 4)
        trained.mechanisms[0](q=q, k=q, v=q)
        return score(built, batch)

    monkeypatch.setattr(trained.task, "score", decodes_first)
    _, examples = trained.first_attention()
    assert {tuple(each["q"].shape) for each in examples} == {(1, 2, 24, 4)}


def test_the_first_input_is_what_the_model_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = model("softmax")
    clean = trained.task.collate([trained.test_split()[i] for i in range(4)])
    assert trained.first_input().equal(clean.x)
    assert not trained.first_input(Corrupted(trained.task, 4)).equal(clean.x)
    score = trained.task.score
    monkeypatch.setattr(trained.task, "score", lambda model, batch: score(model, clean))  # reads neither x nor y
    assert trained.first_input(Corrupted(trained.task, 4)).equal(clean.x)


def test_weights_that_depend_on_the_length_are_refused_by_name() -> None:
    trained = model("linformer", "mechanism.rank=8")
    with pytest.raises(Unsupported, match="has the shape .* in the trained model and .* in one for 48 tokens"):
        trained.model_of(trained.task.at_length(2.0))
