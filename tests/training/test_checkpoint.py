"""Checkpoints: an interrupted training resumes to the identical result, and from no other training's checkpoint."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cab
from cab import Batch, Source, Task
from cab.training import TrainingResult, loop, train
from cab.training.checkpoint import Checkpoint, UnusableCheckpoint

RECIPE = {"steps": 24, "lr": 0.05, "evaluate": 5, "warmup": 3, "schedule": "cosine", "weight_decay": 0.1}


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the process is left but its file."""


class FirstExceedsLast(Task):
    """Does the first token exceed the last? The model has dropout, a tied tensor and running statistics."""

    metrics = {"accuracy": ("fraction", True)}

    def __init__(self, die_at: int = -1) -> None:
        super().__init__(seq_len=4)
        self.calls, self.die_at = 0, die_at

    def source(self, folder: Path) -> Source:
        return Source("generated", False, {})

    def split(self, name: str, seed: int) -> list[list[int]]:
        draw = random.Random(name)
        return [[draw.randrange(9) for _ in range(4)] for _ in range({"train": 50}.get(name, 20))]

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        x = torch.tensor(examples)
        return Batch(x, target=(x[:, 0] > x[:, -1]).long())

    def model(self, attention: Any = None) -> nn.Module:
        model = nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.BatchNorm1d(24), nn.Dropout(0.3), nn.Linear(24, 2))
        model.tied = model[0]  # the same tensor under two names
        return model

    def _count_call(self) -> None:
        self.calls += 1
        if self.calls == self.die_at:
            raise Killed

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self._count_call()
        return F.cross_entropy(model[4](model[3](model[2](model[1](model[0](batch.x))))), batch.target)  # type: ignore

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        self._count_call()
        correct = model[4](model[2](model[1](model[0](batch.x)))).argmax(-1) == batch.target  # type: ignore
        return {"accuracy": correct.float()}


def run(file: Path | None, die_at: int = -1, recipe: dict[str, Any] = RECIPE, **options: Any) -> TrainingResult:
    """Train as a new process would: a new task, a new model, another state of the generators."""
    task = FirstExceedsLast(die_at)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = task.model()
    torch.manual_seed(random.randrange(10**6))
    arguments = {"batch": 8, "seed": 3, "device": "cpu", **options}
    return train(task, model, Path("unused"), recipe, checkpoint=file, **arguments)


def result(training: TrainingResult) -> Any:
    """Return what must not differ by a bit: everything but the seconds and the notes."""
    curve = [{k: v for k, v in point.items() if k != "seconds"} for point in training.curve]
    return training.scores, curve, training.best_step, training.stopped


@pytest.fixture(scope="module")
def uninterrupted() -> Any:
    return result(run(None))


def run_after_kills(file: Path, calls: list[int]) -> TrainingResult:
    """Kill one training after another, each at one of its calls, and let the last one finish."""
    for call in calls:
        with pytest.raises(Killed):
            run(file, die_at=call)
    return run(file)


@pytest.mark.parametrize("every", [0.0, 1e9], ids=["at every step", "at validations"])
def test_killed_at_any_call_it_goes_on_to_the_identical_result(
    every: float, uninterrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", every)
    task = FirstExceedsLast()
    train(task, task.model(), Path("unused"), RECIPE, batch=8, seed=3, device="cpu")
    for call in range(1, task.calls + 1, 2):  # training steps, batches of each validation, and of the test
        file = tmp_path / str(call) / "training.safetensors"
        assert result(run_after_kills(file, [call])) == uninterrupted


def test_killed_again_and_again_it_loses_no_more_than_what_came_after_the_last_save(
    uninterrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    assert (
        result(run_after_kills(tmp_path / "training.safetensors", [3] * 11)) == uninterrupted
    )  # two steps in each process
    seconds = [point["seconds"] for point in run(tmp_path / "training.safetensors").curve]
    assert seconds == sorted(seconds)


def test_a_write_that_is_cut_off_leaves_the_last_state_whole(
    uninterrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, writes = os.replace, []

    def cut_off(source: Any, target: Any) -> None:
        writes.append(target)
        if len(writes) == 3:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", cut_off)
        run(tmp_path / "training.safetensors")
    resumed = run(tmp_path / "training.safetensors")
    assert result(resumed) == uninterrupted and resumed.notes == ()


def test_early_stopping_survives_a_kill(tmp_path: Path) -> None:
    recipe = {**RECIPE, "lr": 1e-9, "patience": 2}
    uninterrupted = run(None, recipe=recipe)
    assert uninterrupted.stopped == "stopped at step 20 of 24: none of 2 validations beat step 10's"
    with pytest.raises(Killed):  # at the test's first batch: 20 steps, 4 validations of 3 batches
        run(tmp_path / "file", 20 + 4 * 3 + 1, recipe)
    assert result(run(tmp_path / "file", recipe=recipe)) == result(uninterrupted)


def test_a_training_that_had_ended_is_only_tested_again(uninterrupted: Any, tmp_path: Path) -> None:
    run(tmp_path / "file")
    assert result(run(tmp_path / "file", die_at=4)) == uninterrupted  # three batches of the test


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"recipe": {**RECIPE, "lr": 0.1}}, "of another training (recipe="),
        ({"seed": 4}, "of another training (seed=3, not 4)"),
        ({"batch": 9}, "of another training (batch=8, not 9)"),
    ],
)
def test_another_trainings_checkpoint_is_set_aside_and_said_so(changed: Any, why: str, tmp_path: Path) -> None:
    file = tmp_path / "training.safetensors"
    with pytest.raises(Killed):
        run(file, 18)
    before = file.read_bytes()
    anew = run(file, **changed)
    assert len(anew.notes) == 1 and why in anew.notes[0] and str(file) in anew.notes[0]
    assert result(anew) == result(run(None, **changed))
    assert (tmp_path / "training.safetensors.aside").read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "bit", "text", "empty", "foreign"])
def test_a_damaged_checkpoint_is_set_aside_and_said_so(damage: str, uninterrupted: Any, tmp_path: Path) -> None:
    file = tmp_path / "training.safetensors"
    with pytest.raises(Killed):
        run(file, 18)
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[:-7]
    elif damage == "bit":
        data[-5] ^= 1
    elif damage == "text":  # of the plain values: a step more than was made
        assert data.count(b'\\"step\\": 10, \\"loss_sum') == 1
        data = data.replace(b'\\"step\\": 10, \\"loss_sum', b'\\"step\\": 11, \\"loss_sum')
    elif damage == "empty":
        data = bytearray()
    file.write_bytes(data)
    if damage == "foreign":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(2)}, str(file))
    anew = run(file)
    assert result(anew) == uninterrupted
    assert len(anew.notes) == 1 and "it is damaged" in anew.notes[0]


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2).T, "b": torch.tensor(1.5, dtype=torch.bfloat16), "c": torch.zeros(0)}
    checkpoint = Checkpoint(tmp_path / "file", {"x": 1})
    checkpoint.write({"y": [0.1, None]}, tensors)
    content = checkpoint.read()
    assert content is not None and content[0] == {"y": [0.1, None]}
    assert all(torch.equal(content[1][name], t) for name, t in tensors.items())
    with pytest.raises(UnusableCheckpoint, match=r"x=1, not 2; z=None, not 3"):
        Checkpoint(tmp_path / "file", {"x": 2, "z": 3}).read()
    assert Checkpoint(tmp_path / "none", {}).read() is None


# Through `cab run`.

REQUEST = [
    f"task={Path(__file__).parents[1] / 'deadly_plugins' / 'killing_task.py'}:KillingTask",
    "mechanism=mean",
    "level=model",
    "pass=train",
]
REQUEST += ["meters=[quality]", "seq_len=2", "heads=1", "dim=4", "batch=8", "threads=1"]
REQUEST += ["training.steps=20", "training.evaluate=5", "training.lr=0.02"]


def _entry(folder: Path) -> dict[str, Any]:
    (file,) = (folder / "results" / "cases").glob("??/*.json")
    return json.loads(file.read_text())  # type: ignore[no-any-return]


def _steps(folder: Path) -> int:
    return len((folder / "steps.log").read_text().splitlines())


@pytest.mark.long
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import cab; cab.run({REQUEST!r} + ['task.victim=command'], data='.', progress=False)"
    results = {}
    for victim, steps in (("none", 20), ("server", 13 + 10), ("child", 13 + 10), ("command", 13 + 10)):
        folder = tmp_path / victim
        folder.mkdir()
        monkeypatch.chdir(folder)
        if victim == "command":
            assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == -signal.SIGKILL
        request = [*REQUEST, f"task.victim={victim}"]
        rows = cab.run(request, data=".", progress=False)
        if victim == "child":
            assert rows["status"].tolist() == ["error"]
            assert rows["reason"][0] == "killed by SIGKILL; --retry error goes on from its last checkpoint"
            rows = cab.run(request, data=".", progress=False, retry=["error"])
        assert _steps(folder) == steps  # killed in step 13, saved at step 10
        assert set(rows["status"]) == {"ok"} and not list((folder / "results" / "checkpoints").glob("*"))
        entry = _entry(folder)
        curve = [{k: v for k, v in point.items() if k != "seconds"} for point in entry["curve"]]
        results[victim] = entry["metrics"], entry["processes"][0]["metrics"], curve, entry["best_step"]
    assert all(each == results["none"] for each in results.values())


@pytest.mark.long
def test_force_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = [*REQUEST, "task.victim=child"]
    cab.run(request, data=".", progress=False)
    cab.run(request, data=".", progress=False, force=True)
    assert _steps(tmp_path) == 13 + 20
