"""Several processes make the steps, and so the training, of one process with the same batches."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cab.errors import UsageError
from cab.training import launch

# in a process of its own: nothing may have been computed before the fork
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import test_checkpoint
from cab.training import launch, train

count, batch, dropout, accumulate, patience, kill, file, sharding, statistics = json.loads(sys.argv[2])

class Deterministic(test_checkpoint.FirstExceedsLast):
    def model(self, attention=None):
        model = super().model()
        if not statistics:
            model[2] = torch.nn.LayerNorm(24)  # batch statistics are each process's own
        model[3].p = dropout
        return model.double()

    def loss(self, model, batch):
        if kill and self.calls == 12 and int(os.environ.get("LOCAL_RANK", 0)) == count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)

    def score(self, model, batch):
        scores = super().score(model, batch)
        return {"accuracy": model[2].running_mean.sum().expand(len(batch.x)).float()} if statistics else scores

def job(devices):
    torch.set_num_threads(1)
    task = Deterministic()
    torch.manual_seed(7)
    model = task.model()
    recipe = {**test_checkpoint.RECIPE, "devices": devices.size, "accumulate": accumulate, "patience": patience}
    recipe["clip"] = 0.5  # less than the gradient's norm
    done = train(task, model, Path("."), recipe, batch=batch, seed=3, device="cpu", devices=devices,
                 checkpoint=Path(file) if file else None)
    weights = torch.cat([p.flatten() for p in devices.gather_shards(dict(model.named_parameters())).values()]).tolist()
    kept = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in model.parameters())
    curve = [{k: v for k, v in point.items() if k != "seconds"} for point in done.curve]
    return {"scores": done.scores, "curve": curve, "weights": weights, "stopped": done.stopped, "notes": done.notes,
            "kept": kept}

print(json.dumps(launch(count, "cpu", job, sharding)))
"""


def outcome(
    count: int,
    batch: int = 9,
    dropout: float = 0.0,
    accumulate: int = 1,
    patience: int | None = None,
    kill: bool = False,
    file: Path | None = None,
    sharding: str | None = None,
    statistics: bool = False,
) -> Any:
    """Train in `count` processes and return their result, or None where one was killed."""
    arguments = json.dumps([count, batch, dropout, accumulate, patience, kill, str(file or ""), sharding, statistics])
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if kill:
        assert done.returncode and "SIGKILL" in done.stderr
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.parametrize("sharding", [None, "fsdp"])
def test_two_processes_make_the_training_of_one(sharding: str | None) -> None:
    pytest.importorskip("lightning_fabric")
    one, two = outcome(1), outcome(2, sharding=sharding)  # batches of 9: shares of 5 and 4 examples
    assert [p["step"] for p in two["curve"]] == [p["step"] for p in one["curve"]]
    for a, b in zip(one["curve"], two["curve"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-12) and b["validation"] == a["validation"]
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-9, abs=1e-12)
    assert two["scores"] == one["scores"]
    assert two["kept"] < 0.6 * one["kept"] if sharding else two["kept"] == one["kept"]  # weights of the first process


@pytest.mark.long
@pytest.mark.parametrize("sharding", [None, "fsdp"])
def test_all_processes_score_with_the_running_statistics_of_one(sharding: str | None) -> None:
    pytest.importorskip("lightning_fabric")
    assert len(set(outcome(2, sharding=sharding, statistics=True)["scores"]["accuracy"])) == 1


@pytest.mark.long
@pytest.mark.parametrize("sharding", [None, "fsdp"])
def test_pieces_stopping_and_a_kill_do_in_two_processes_what_they_do_in_one(
    sharding: str | None, tmp_path: Path
) -> None:
    pytest.importorskip("lightning_fabric")
    # batches of 3 in pieces of one or two: one process has two pieces, the other one
    one, two = (outcome(count, 3, accumulate=2, patience=1, sharding=sharding) for count in (1, 2))
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-9, abs=1e-12) and two["stopped"] == one["stopped"]
    uninterrupted = outcome(2, dropout=0.3, sharding=sharding)
    file = tmp_path / "training.safetensors"
    outcome(2, dropout=0.3, kill=True, file=file, sharding=sharding)
    assert file.exists()
    assert outcome(2, dropout=0.3, file=file, sharding=sharding) == uninterrupted  # to the last bit
    file.write_bytes(b"damaged")
    (note,) = outcome(2, dropout=0.3, file=file, sharding=sharding)["notes"]
    assert "it is damaged" in note


def test_what_cannot_be_launched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch(1, "cpu", lambda devices: devices.size) == 1
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(
        UsageError, match=r"training.devices=2 needs Lightning Fabric: pip install 'cab-bench\[devices\]'"
    ):
        launch(2, "cpu", lambda devices: devices.size)


@pytest.mark.long
def test_a_refusal_in_the_processes_is_one_here() -> None:
    """In a process of its own: nothing may have been computed before the fork."""
    pytest.importorskip("lightning_fabric")
    program = """
import torch
from cab.errors import Unsupported
from cab.training import launch
model = torch.nn.Module()
model.temperature = torch.nn.Parameter(torch.tensor(1.0))
try:
    launch(2, "cpu", lambda devices: devices.data_parallel(model), "fsdp")
except Unsupported as refusal:
    print(refusal)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.stdout.splitlines()[-1:] == [
        "sharding=fsdp: FSDP2 cannot share out temperature, a parameter without axes"
    ], done.stderr
