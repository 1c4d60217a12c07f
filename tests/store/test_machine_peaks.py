"""What a machine can do at most is kept for its environment."""

from pathlib import Path

from cab import environment
from cab.contracts.messages import PeakAnswer
from cab.store import machine_peaks


def test_peaks_are_kept_for_their_environment_and_read_back(tmp_path: Path) -> None:
    identity = {"host": "here", "device": "cpu", "threads": 1}
    assert machine_peaks.load(tmp_path) == {}
    path = machine_peaks.keep(tmp_path, identity, PeakAnswer({"float32": 100.0}, 10.0))
    (path.parent / "half.json").write_text('{"environment_id": "x", ')
    ((environment_id, peaks),) = machine_peaks.load(tmp_path).items()
    assert environment_id == environment.environment_id(identity)
    assert peaks["matmul"] == {"float32": 100.0} and peaks["copy"] == 10.0 and peaks["time"].startswith("20")
