"""`cab doctor --peak` says which devices there are."""

from pathlib import Path

from cab.cli import app
from typer.testing import CliRunner

from cab.store import machine_peaks


def test_a_device_that_is_not_there_has_no_peak(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--peak", "--device", "cuda:7", "--results", str(tmp_path)])
    assert done.exit_code == 2 and "Available: cpu" in done.output and machine_peaks.load(tmp_path) == {}
