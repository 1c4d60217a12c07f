"""The training loop: what a seed decides, what is validated, kept and tested, and when a training stops."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Missing, Source, Task
from cab.errors import UsageError
from cab.training import Diverged, TrainingResult, train

RECIPE = {"steps": 12, "lr": 0.05, "evaluate": 4, "warmup": 2, "schedule": "cosine", "clip": 1.0}
RISING = {"steps": 10, "lr": 0.1, "evaluate": 1, "weight_decay": 0.0}


class Split:
    """Sequences of ones and twos of several lengths; the label says which is first."""

    def __init__(self, size: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rows = [rng.integers(1, 3, size=rng.integers(2, 9)).tolist() for _ in range(size)]
        self.lengths = [len(row) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> tuple[list[int], int]:
        return self.rows[index], index


class First(Task):
    """Which token comes first? `calls` records each call of `loss` and `score`."""

    metrics = {"accuracy": ("fraction", True), "index": ("", True)}

    def __init__(self) -> None:
        super().__init__(seq_len=8)
        self.calls: list[dict[str, Any]] = []

    def source(self, folder: Path) -> Source | Missing:
        return Source("generated", False, {})

    def split(self, name: str, seed: int) -> Split:
        return Split({"train": 40, "validation": 10, "test": 11}[name], len(name))

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        length = max(len(row) for row, _ in examples) if trim else self.seq_len
        x = torch.tensor([row + [0] * (length - len(row)) for row, _ in examples])
        return Batch(x, x > 0, target=x[:, 0] - 1, inputs={"index": torch.tensor([i for _, i in examples])})

    def model(self, attention: Any = None) -> nn.Module:
        return nn.Sequential(nn.Embedding(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))

    def _record(self, kind: str, model: nn.Module, batch: Batch) -> None:
        autocast = torch.is_autocast_enabled("cpu")
        self.calls.append({"kind": kind, "training": model.training, "shape": batch.x.shape, "autocast": autocast})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self._record("loss", model, batch)
        return F.cross_entropy(model(batch.x)[:, 0], batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        self._record("score", model, batch)
        right = (model(batch.x)[:, 0].argmax(-1) == batch.target).float()
        return {"accuracy": right, "index": batch.inputs["index"].float()}


class Rising(Task):
    """One weight that rises by `lr` a step; its metric, the distance to `goal`, falls and then rises."""

    metrics = {"distance": ("", False)}

    def __init__(self, goal: float = 0.5) -> None:
        super().__init__(seq_len=1)
        self.goal = goal

    def source(self, folder: Path) -> Source | Missing:
        return Source("generated", False, {})

    def split(self, name: str, seed: int) -> list[int]:
        return list(range(4))

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        return Batch(torch.tensor(examples))

    def model(self, attention: Any = None) -> nn.Module:
        model = nn.Module()
        model.weight = nn.Parameter(torch.zeros(1))
        return model

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return -model.weight.sum()

    def score(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        return {"distance": (model.weight.detach() - self.goal).abs().expand(len(batch.x))}


def new_model(task: Task, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return task.model(None)  # type: ignore[arg-type]


def train_model(task: Task, model: nn.Module, recipe: dict[str, Any] = RECIPE, **options: Any) -> TrainingResult:
    arguments = {"batch": 4, "seed": 0, "device": "cpu", **options}
    return train(task, model, Path("unused"), recipe, **arguments)


# The whole run.


def test_a_seed_decides_every_bit_and_another_seed_decides_otherwise() -> None:
    models = [new_model(First()) for _ in range(3)]
    runs = [train_model(First(), model, seed=seed) for model, seed in zip(models, (1, 1, 2), strict=True)]
    losses = [[point["loss"] for point in run.curve] for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert runs[0].scores == runs[1].scores
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_generator_of_the_process_moves() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    train_model(First(), new_model(First()))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_the_state_of_the_process_does_not_reach_the_run() -> None:
    runs = []
    for seed in (5, 6):
        model = new_model(First())
        torch.manual_seed(seed)
        runs.append(train_model(First(), model))
    assert [p["loss"] for p in runs[0].curve] == [p["loss"] for p in runs[1].curve]


def test_it_learns() -> None:
    scores = train_model(First(), new_model(First()), {"steps": 60, "lr": 0.05}).scores["accuracy"]
    assert scores == [1.0] * 11


def test_scores_are_one_for_each_test_example_in_the_splits_order() -> None:
    run = train_model(First(), new_model(First()))
    assert run.scores["index"] == list(range(11))
    assert set(run.scores["accuracy"]) <= {0.0, 1.0} and len(run.scores["accuracy"]) == 11


def test_training_trains_and_scoring_evaluates_on_trimmed_batches() -> None:
    task = First()
    train_model(task, new_model(task))
    assert {(call["kind"], call["training"]) for call in task.calls} == {("loss", True), ("score", False)}
    assert len({call["shape"][1] for call in task.calls}) > 1


def test_the_curve_has_every_validation_and_the_last_step() -> None:
    run = train_model(First(), new_model(First()), {**RECIPE, "steps": 10})
    assert [point["step"] for point in run.curve] == [4, 8, 10]
    assert json.loads(json.dumps(run.curve)) == run.curve
    assert all(set(point["validation"]) == set(First.metrics) for point in run.curve)


def test_progress_is_told_in_lines() -> None:
    lines: list[str] = []
    train_model(First(), new_model(First()), progress=lines.append)
    assert len(lines) == 3 and lines[-1].startswith("step 12/12 loss ")
    assert "validation accuracy" in lines[0] and lines[0].endswith("*")


def test_missing_data_are_told_with_the_command_that_brings_them() -> None:
    task = First()
    task.source = lambda folder: Missing("cab data get first")  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="cab data get first"):
        train_model(task, new_model(task))


def test_a_number_of_processes_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="training.devices=2: launch as many processes, not 1"):
        train_model(First(), new_model(First()), {**RECIPE, "devices": 2})


# The best weights.


def test_the_best_validations_weights_are_tested_and_left_in_the_model() -> None:
    model: Any = new_model(Rising())
    run = train_model(Rising(), model, RISING)
    assert run.best_step == 5  # AdamW moves a weight of constant gradient by lr a step
    assert model.weight.item() == pytest.approx(0.5, abs=1e-6)
    assert run.scores["distance"] == pytest.approx([0.0] * 4, abs=1e-6)


def test_a_first_validation_that_is_no_number_is_not_the_best_for_ever() -> None:
    task, score = Rising(), Rising().score

    def fails_at_first(model: Any, batch: Batch) -> dict[str, Tensor]:
        distances = score(model, batch)["distance"]
        return {"distance": torch.where(distances > 0.35, torch.nan, distances)}

    task.score = fails_at_first  # type: ignore[method-assign]
    assert train_model(task, new_model(task), RISING).best_step == 5


def test_of_equal_validations_the_first_is_kept() -> None:
    task = Rising()
    task.score = lambda model, batch: {"distance": torch.ones(len(batch.x))}  # type: ignore[method-assign]
    assert train_model(task, new_model(task), {"steps": 6, "lr": 0.1, "evaluate": 2}).best_step == 2


# What is scored, and how long it goes on.


def test_patience_ends_a_training_that_gets_no_better_and_says_so() -> None:
    for patience, last in ((1, 6), (3, 8), (None, 10)):
        run = train_model(Rising(), new_model(Rising()), {**RISING, "patience": patience})
        assert [point["step"] for point in run.curve] == list(range(1, last + 1))
        assert run.best_step == 5
        reason = f"stopped at step {last} of 10: none of {patience} validations beat step 5's"
        assert run.stopped == (reason if patience else "")
    never = train_model(Rising(5.0), new_model(Rising()), {**RISING, "patience": 1})
    assert never.curve[-1]["step"] == 10 and not never.stopped


def test_a_part_of_a_split_is_the_same_for_every_seed() -> None:
    tested = {}
    for seed in (1, 2):
        task = First()
        run = train_model(task, new_model(task, seed), {**RECIPE, "test": 5, "validate": 3}, seed=seed)
        tested[seed] = run.scores["index"]
        scored = [call["shape"][0] for call in task.calls if call["kind"] == "score"]
        assert sum(scored) == 3 * 3 + 5
    assert tested[1] == tested[2] == sorted(tested[1]) and len(set(tested[1])) == 5
    assert tested[1] != list(range(5))
    assert train_model(First(), new_model(First()), {**RECIPE, "test": 500}).scores["index"] == list(range(11))


# One step.


def test_a_loss_that_is_no_number_is_an_error_that_names_the_step() -> None:
    task = Rising()
    task.loss = lambda model, batch: -model.weight.sum() / (model.weight.detach() < 0.25).float()  # type: ignore
    with pytest.raises(Diverged, match=r"-inf at step 4 of 10 \(lr 0.1\)"):
        train_model(task, new_model(task), {"steps": 10, "lr": 0.1})


def test_accumulation_cuts_a_batch_into_pieces() -> None:
    task = First()
    train_model(task, new_model(task), {**RECIPE, "steps": 1, "accumulate": 3}, batch=8)
    assert [call["shape"][0] for call in task.calls if call["kind"] == "loss"] == [3, 3, 2]


def test_precision_is_what_the_recipe_says() -> None:
    for precision, mixed in (("auto", False), ("float32", False), ("bfloat16", True)):
        task = First()
        train_model(task, new_model(task), {**RECIPE, "precision": precision})
        assert {call["autocast"] for call in task.calls} == {mixed}
