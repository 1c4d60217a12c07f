"""Training: which examples a step sees, what the loop keeps, restores and leaves alone."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Mechanism, Missing, Pattern, Slot, Source, Task
from cab.errors import UsageError
from cab.training import Diverged, Training, evaluate, optimiser, step, train
from cab.training.order import POOL, Order, by_length
from cab.training.scoring import Part

RECIPE = {"steps": 12, "lr": 0.05, "evaluate": 4, "warmup": 2, "schedule": "cosine", "clip": 1.0}
CLIMB = {"steps": 10, "lr": 0.1, "evaluate": 1, "weight_decay": 0.0}


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
    """Which token comes first?"""

    metrics = {"accuracy": ("fraction", True), "index": ("", True)}

    def __init__(self) -> None:
        super().__init__(seq_len=8)
        self.seen: list[dict[str, Any]] = []

    def source(self, folder: Path) -> Source | Missing:
        return Source("made up", False, {})

    def split(self, name: str, seed: int) -> Split:
        return Split({"train": 40, "validation": 10, "test": 11}[name], len(name))

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        length = max(len(row) for row, _ in examples) if trim else self.seq_len
        x = torch.tensor([row + [0] * (length - len(row)) for row, _ in examples])
        return Batch(x, x > 0, target=x[:, 0] - 1, inputs={"index": torch.tensor([i for _, i in examples])})

    def model(self, attention: Any = None) -> nn.Module:
        return nn.Sequential(nn.Embedding(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))

    def _note(self, kind: str, model: nn.Module, batch: Batch) -> None:
        autocast = torch.is_autocast_enabled("cpu")
        self.seen.append({"kind": kind, "training": model.training, "shape": batch.x.shape, "autocast": autocast})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self._note("loss", model, batch)
        return F.cross_entropy(model(batch.x)[:, 0], batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        self._note("score", model, batch)
        right = (model(batch.x)[:, 0].argmax(-1) == batch.target).float()
        return {"accuracy": right, "index": batch.inputs["index"].float()}


class Climb(Task):
    """One weight that climbs by `lr` a step; the validation metric is best where it passes `goal`."""

    metrics = {"miss": ("", False)}

    def __init__(self, goal: float = 0.5) -> None:
        super().__init__(seq_len=1)
        self.goal = goal

    def source(self, folder: Path) -> Source | Missing:
        return Source("none", False, {})

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
        return {"miss": (model.weight.detach() - self.goal).abs().expand(len(batch.x))}


def fresh(task: Task, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return task.model(None)  # type: ignore[arg-type]


def trained(task: Task, model: nn.Module, recipe: dict[str, Any] = RECIPE, **options: Any) -> Training:
    given = {"batch": 4, "seed": 0, "device": "cpu", **options}
    return train(task, model, Path("unused"), recipe, **given)


# The whole run.


def test_a_seed_decides_every_bit_and_another_seed_decides_otherwise() -> None:
    models = [fresh(First()) for _ in range(3)]
    runs = [trained(First(), model, seed=seed) for model, seed in zip(models, (1, 1, 2), strict=True)]
    losses = [[point["loss"] for point in run.curve] for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert runs[0].scores == runs[1].scores
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_generator_of_the_process_moves() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    trained(First(), fresh(First()))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_the_state_of_the_process_does_not_reach_the_run() -> None:
    runs = []
    for seed in (5, 6):
        model = fresh(First())
        torch.manual_seed(seed)
        runs.append(trained(First(), model))
    assert [p["loss"] for p in runs[0].curve] == [p["loss"] for p in runs[1].curve]


def test_it_learns() -> None:
    scores = trained(First(), fresh(First()), {"steps": 60, "lr": 0.05}).scores["accuracy"]
    assert scores == [1.0] * 11


def test_scores_are_one_for_each_test_example_in_the_splits_order() -> None:
    run = trained(First(), fresh(First()))
    assert run.scores["index"] == list(range(11))
    assert set(run.scores["accuracy"]) <= {0.0, 1.0} and len(run.scores["accuracy"]) == 11


def test_training_trains_and_scoring_evaluates_on_trimmed_batches() -> None:
    task = First()
    trained(task, fresh(task))
    assert {(s["kind"], s["training"]) for s in task.seen} == {("loss", True), ("score", False)}
    assert len({s["shape"][1] for s in task.seen}) > 1


def test_the_curve_has_every_validation_and_the_last_step() -> None:
    run = trained(First(), fresh(First()), {**RECIPE, "steps": 10})
    assert [point["step"] for point in run.curve] == [4, 8, 10]
    assert json.loads(json.dumps(run.curve)) == run.curve
    assert all(set(point["validation"]) == set(First.metrics) for point in run.curve)


def test_progress_is_told_in_lines() -> None:
    lines: list[str] = []
    trained(First(), fresh(First()), progress=lines.append)
    assert len(lines) == 3 and lines[-1].startswith("step 12/12 loss ")
    assert "validation accuracy" in lines[0] and lines[0].endswith("*")


def test_missing_data_are_told_with_the_command_that_brings_them() -> None:
    task = First()
    task.source = lambda folder: Missing("cab data get first")  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="cab data get first"):
        trained(task, fresh(task))


# The best weights.


def test_the_best_validations_weights_are_tested_and_left_in_the_model() -> None:
    model: Any = fresh(Climb())
    run = trained(Climb(), model, CLIMB)
    assert run.best_step == 5  # AdamW moves a weight of constant gradient by lr a step
    assert model.weight.item() == pytest.approx(0.5, abs=1e-6)
    assert run.scores["miss"] == pytest.approx([0.0] * 4, abs=1e-6)


def test_of_equal_validations_the_first_is_kept() -> None:
    task = Climb()
    task.score = lambda model, batch: {"miss": torch.ones(len(batch.x))}  # type: ignore[method-assign]
    assert trained(task, fresh(task), {"steps": 6, "lr": 0.1, "evaluate": 2}).best_step == 2


# What is scored, and how long it goes on.


def test_patience_ends_a_training_that_gets_no_better_and_says_so() -> None:
    for patience, last in ((1, 6), (3, 8), (None, 10)):
        run = trained(Climb(), fresh(Climb()), {**CLIMB, "patience": patience})
        assert [point["step"] for point in run.curve] == list(range(1, last + 1))
        assert run.best_step == 5
        early = f"stopped at step {last} of 10: none of {patience} validations beat step 5's"
        assert run.stopped == (early if patience else "")
    never = trained(Climb(5.0), fresh(Climb()), {**CLIMB, "patience": 1})
    assert never.curve[-1]["step"] == 10 and not never.stopped


def test_a_part_of_a_split_is_the_same_for_every_seed() -> None:
    seen = {}
    for seed in (1, 2):
        task = First()
        run = trained(task, fresh(task, seed), {**RECIPE, "test": 5, "validate": 3}, seed=seed)
        seen[seed] = run.scores["index"]
        scored = [s["shape"][0] for s in task.seen if s["kind"] == "score"]
        assert sum(scored) == 3 * 3 + 5
    assert seen[1] == seen[2] == sorted(seen[1]) and len(set(seen[1])) == 5
    assert seen[1] != list(range(5))
    assert trained(First(), fresh(First()), {**RECIPE, "test": 500}).scores["index"] == list(range(11))


def test_a_part_has_its_examples_lengths() -> None:
    split = Split(30, 0)
    part = Part(split, 7)
    assert part.lengths == [len(part[i][0]) for i in range(len(part))] and len(part) == 7


# One step.


def test_a_loss_that_is_no_number_is_an_error_that_names_the_step() -> None:
    task = Climb()
    task.loss = lambda model, batch: -model.weight.sum() / (model.weight.detach() < 0.25).float()  # type: ignore
    with pytest.raises(Diverged, match=r"-inf at step 4 of 10 \(lr 0.1\)"):
        trained(task, fresh(task), {"steps": 10, "lr": 0.1})


class Nudged(Mechanism):
    """Leaves an auxiliary loss on its only weight in training."""

    patterns = {"NS": "native"}

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot)
        self.gate = nn.Parameter(torch.tensor(2.0))

    def attend(self, q: Any, k: Any, v: Any, key_mask: Any = None, query_mask: Any = None) -> Any:
        if self.training:
            self.aux_loss = 3.0 * self.gate
        return v


def test_what_mechanisms_leave_in_aux_loss_reaches_the_gradient_and_is_cleared() -> None:
    mechanism = Nudged(Slot(Pattern.NS, heads=1, dim=2, max_len=3))
    model = nn.Sequential(nn.Identity(), mechanism)  # it is found at whatever depth
    t = torch.randn(1, 1, 3, 2)

    class Silent(Climb):
        def loss(self, model: Any, batch: Batch) -> Tensor:
            return (mechanism(t, t, t) * 0).sum() + 0 * mechanism.gate

    loss = step(Silent(), model, optimiser(model, RECIPE), Batch(torch.zeros(2)), {**RECIPE, "clip": None})
    assert mechanism.gate.grad is not None and mechanism.gate.grad.item() == 3.0
    assert mechanism.aux_loss is None
    assert loss.item() == 0.0  # what is reported is the task's own loss


def test_a_batch_in_pieces_makes_the_step_of_the_whole_batch() -> None:
    task = First()
    models = [fresh(task).double().eval() for _ in range(2)]
    split = task.split("train", 0)
    examples = [split[i] for i in range(7)]
    whole = task.collate(examples)
    pieces = [task.collate(examples[:3]), task.collate(examples[3:])]
    losses = [step(task, m, optimiser(m, RECIPE), b, RECIPE) for m, b in zip(models, (whole, pieces), strict=True)]
    torch.testing.assert_close(losses[0], losses[1])
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
        torch.testing.assert_close(a, b)


def test_accumulation_cuts_a_batch_into_pieces() -> None:
    task = First()
    trained(task, fresh(task), {**RECIPE, "steps": 1, "accumulate": 3}, batch=8)
    assert [s["shape"][0] for s in task.seen if s["kind"] == "loss"] == [3, 3, 2]


def test_clip_bounds_the_gradients_norm() -> None:
    task = Climb()
    for clip, norm in ((0.25, 0.25), (None, 1.0)):
        model: Any = fresh(task)
        step(task, model, optimiser(model, RECIPE), Batch(torch.zeros(1)), {**RECIPE, "clip": clip})
        assert model.weight.grad.norm().item() == pytest.approx(norm, rel=1e-4)


def test_decay_shrinks_matrices_and_spares_vectors_and_embeddings() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "embedding": nn.Embedding(3, 2)})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    decaying = optimiser(model, {"steps": 1, "lr": 0.1, "weight_decay": 0.5})
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    decaying.step()
    for name, p in model.named_parameters():
        kept = 0.95 if name == "linear.weight" else 1.0  # decoupled: lr * weight_decay, whatever the gradient
        torch.testing.assert_close(p.detach(), kept * before[name])


def test_precision_is_what_the_recipe_says() -> None:
    for precision, mixed in (("auto", False), ("float32", False), ("bfloat16", True)):
        task = First()
        trained(task, fresh(task), {**RECIPE, "precision": precision})
        assert {s["autocast"] for s in task.seen} == {mixed}


def test_evaluate_leaves_no_graph_and_takes_sums_with_counts() -> None:
    task = Climb()
    pairs = lambda model, batch: {"miss": torch.stack([model.weight.expand(len(batch.x)), batch.x.float()], 1)}  # noqa: E731
    task.score = pairs  # type: ignore[method-assign]
    model = fresh(task)
    found = evaluate(task, model, task.split("test", 0), batch=3, device=torch.device("cpu"))
    assert found["miss"].shape == (4, 2) and not found["miss"].requires_grad
    assert found["miss"][:, 1].tolist() == [0.0, 1.0, 2.0, 3.0]


# The order of the examples.


def test_a_batch_is_a_function_of_the_seed_and_the_step() -> None:
    lengths = Split(100, 0).lengths
    one, other = Order(100, 8, 3, lengths), Order(100, 8, 3, lengths)
    forward = {s: one(s) for s in range(60)}
    assert {s: other(s) for s in reversed(range(60))} == forward
    assert one(2) != one(3) and one(2) != Order(100, 8, 4, lengths)(2)


def test_an_epoch_has_every_example_once() -> None:
    size, batch = 8 * POOL, 4
    order = Order(size, batch, 0, Split(size, 1).lengths)
    for epoch in range(3):
        seen = [i for s in range(epoch * size // batch, (epoch + 1) * size // batch) for i in order(s)]
        assert sorted(seen) == list(range(size))


def test_every_batch_is_full_whatever_the_size_of_the_data() -> None:
    for size in (1, 3, 37):
        order = Order(size, 5, 0)
        assert all(len(order(s)) == 5 for s in range(3 * POOL))
        counts = np.bincount([i for s in range(3 * POOL) for i in order(s)], minlength=size)
        assert counts.max() - counts.min() <= 1


def test_batches_have_like_lengths_and_come_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 64 * POOL)
    order, plain = Order(len(lengths), 64, 0, lengths), Order(len(lengths), 64, 0)
    spread = [float(np.ptp(lengths[o(s)])) for o in (order, plain) for s in range(POOL)]
    assert max(spread[:POOL]) < 150 < min(spread[POOL:])
    longest = [int(lengths[order(s)].max()) for s in range(POOL)]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_scoring_begins_with_the_longest() -> None:
    assert by_length(5, 2, [3, 9, 1, 9, 4]) == [[1, 3], [4, 0], [2]]
    assert by_length(3, 2) == [[0, 1], [2]]


def test_a_split_without_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="without examples"):
        Order(0, 4, 0)
