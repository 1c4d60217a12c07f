"""Instruction counts: what the process is asked, what is read, and what fails in one line; for real where there is
valgrind.
"""

import shutil
import subprocess
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


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(callgrind.missing() is not None, reason="valgrind or a compiler is not installed")
def test_two_counts_of_the_same_code_are_identical() -> None:
    first, second = (count_instructions("run = lambda: sum(range(1000))") for _ in range(2))
    assert first == second > 10_000
    # twice the work is nearly twice the count
    assert 1.8 < count_instructions("run = lambda: sum(range(2000))") / first < 2.2
