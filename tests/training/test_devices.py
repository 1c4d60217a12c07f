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

count, batch, dropout, accumulate, patience, kill, file = json.loads(sys.argv[2])

class Deterministic(test_checkpoint.FirstExceedsLast):
    def model(self, attention=None):
        model = super().model()
        model[2] = torch.nn.LayerNorm(24)  # batch statistics would be each process's own
        model[3].p = dropout
        return model.double()

    def loss(self, model, batch):
        if kill and self.calls == 12 and int(os.environ.get("LOCAL_RANK", 0)) == count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)

def job(devices):
    torch.set_num_threads(1)
    task = Deterministic()
    torch.manual_seed(7)
    model = task.model()
    recipe = {**test_checkpoint.RECIPE, "devices": devices.size, "accumulate": accumulate, "patience": patience}
    done = train(task, model, Path("."), recipe, batch=batch, seed=3, device="cpu", devices=devices,
                 checkpoint=Path(file) if file else None)
    weights = torch.cat([p.flatten() for p in model.parameters()]).tolist()
    curve = [{k: v for k, v in point.items() if k != "seconds"} for point in done.curve]
    return {"scores": done.scores, "curve": curve, "weights": weights, "stopped": done.stopped, "notes": done.notes}

print(json.dumps(launch(count, "cpu", job)))
"""


def outcome(
    count: int,
    batch: int = 9,
    dropout: float = 0.0,
    accumulate: int = 1,
    patience: int | None = None,
    kill: bool = False,
    file: Path | None = None,
) -> Any:
    """Train in `count` processes and return their result, or None where one was killed."""
    arguments = json.dumps([count, batch, dropout, accumulate, patience, kill, str(file or "")])
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if kill:
        assert done.returncode and "SIGKILL" in done.stderr
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_two_processes_make_the_training_of_one() -> None:
    pytest.importorskip("lightning_fabric")
    one, two = outcome(1), outcome(2)  # batches of 9: shares of 5 and 4 examples
    assert [p["step"] for p in two["curve"]] == [p["step"] for p in one["curve"]]
    for a, b in zip(one["curve"], two["curve"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-12) and b["validation"] == a["validation"]
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-9, abs=1e-12)
    assert two["scores"] == one["scores"]


@pytest.mark.long
def test_pieces_stopping_and_a_kill_do_in_two_processes_what_they_do_in_one(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    one, two = outcome(1, 8, accumulate=2, patience=1), outcome(2, 8, accumulate=2, patience=1)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-9, abs=1e-12) and two["stopped"] == one["stopped"]
    uninterrupted = outcome(2, dropout=0.3)
    file = tmp_path / "training.safetensors"
    outcome(2, dropout=0.3, kill=True, file=file)
    assert file.exists()
    assert outcome(2, dropout=0.3, file=file) == uninterrupted  # to the last bit
    file.write_bytes(b"damaged")
    (note,) = outcome(2, dropout=0.3, file=file)["notes"]
    assert "it is damaged" in note


def test_what_cannot_be_launched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch(1, "cpu", lambda devices: devices.size) == 1
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(
        UsageError, match=r"training.devices=2 needs Lightning Fabric: pip install 'cab-bench\[devices\]'"
    ):
        launch(2, "cpu", lambda devices: devices.size)
