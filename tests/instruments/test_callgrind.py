"""Instruction counts: what the process is asked, what is read, and what fails in one line; for real where there is
valgrind.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cab.instruments import callgrind
from cab.instruments.callgrind import CALLS, count_instructions, missing


def stand_in(monkeypatch: pytest.MonkeyPatch, dump: str | None, code: int = 0, errors: str = "") -> list[list[str]]:
    """Stand in for the compiler and for valgrind, which writes this dump."""
    commands = list[list[str]]()

    def run(command: list[str], env: dict[str, str], **settings: Any) -> Any:
        assert env["PYTHONHASHSEED"] == "0"
        commands.append(command)
        if command[0] == "valgrind" and dump is not None:
            out = next(part for part in command if part.startswith("--callgrind-out-file="))
            Path(out.partition("=")[2] + ".1").write_text(dump)
        return subprocess.CompletedProcess(command, code if command[0] == "valgrind" else 0, "", errors)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_the_count_is_the_mean_of_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = stand_in(monkeypatch, f"events: Ir\nfn=x\n1 5\ntotals: {CALLS * 700}\n")
    assert count_instructions("run = print") == 700
    assert [Path(command[0]).name for command in commands] in (["cc", "valgrind"], ["gcc", "valgrind"])
    assert "--instr-atstart=no" in commands[1]


def test_what_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, None)
    with pytest.raises(RuntimeError, match="wrote no counts"):
        count_instructions("run = print")
    stand_in(monkeypatch, None, 1, "==7== Callgrind\nModuleNotFoundError: no torch\n==7== end\n")
    with pytest.raises(RuntimeError, match="^valgrind: ModuleNotFoundError: no torch$"):
        count_instructions("run = print")


def test_a_compiler_is_needed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/valgrind" if name == "valgrind" else None)
    assert "apt install gcc" in (missing() or "")


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs named cc, which makes nothing, and valgrind, which runs its command as it is, first in the path."""
    for name, lines in {"cc": "exit 0", "valgrind": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_a_count_has_a_time_limit_also_where_none_is_given(emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="^valgrind took longer than 1 s$"):
        count_instructions("import time; time.sleep(60)", seconds=1)
    monkeypatch.setattr(callgrind, "SECONDS", 1.0)
    with pytest.raises(RuntimeError, match="^valgrind took longer than 1 s$"):
        count_instructions("import time; time.sleep(60)")


def test_valgrind_ends_with_the_process_that_counts(emulator: Path) -> None:
    number = emulator / "number"
    setup = f"import os, time; open({str(number)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    script = f"from cab.instruments.callgrind import count_instructions; count_instructions({setup!r})"
    counting = subprocess.Popen([sys.executable, "-c", script])
    try:
        _wait_until(lambda: number.exists() and bool(number.read_text()))
    finally:
        counting.kill()
        counting.wait()
    pid = int(number.read_text())
    try:
        _wait_until(lambda: not _runs(pid))
    finally:
        if _runs(pid):
            os.kill(pid, signal.SIGKILL)


def _wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(callgrind.missing() is not None, reason="valgrind or a compiler is not installed")
def test_two_counts_of_the_same_code_are_identical() -> None:
    first, second = (count_instructions("run = lambda: sum(range(1000))") for _ in range(2))
    assert first == second > 10_000
    # twice the work is nearly twice the count
    assert 1.8 < count_instructions("run = lambda: sum(range(2000))") / first < 2.2
