"""The preview of a run says what varies, a line a case, and the rest once."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from cab.runner.run import preview
from cab.store.store import Store
from cab.terminal.printing import console, counted, print_damaged, print_preview


def printed(results: Path, *overrides: str, width: int = 200) -> str:
    asked = overrides if any(each.startswith("task=") for each in overrides) else [*overrides, "task=speed"]
    out = io.StringIO()
    print_preview(preview([*asked, "meters=[flops]"], results), Console(file=out, width=width))
    return out.getvalue()


def test_a_sweep_has_a_column_and_no_two_lines_alike(tmp_path: Path) -> None:
    text = printed(tmp_path, "mechanism=linear", "mechanism.chunk=16,32", "threads=1,2")
    same, table = text.partition("in all cases: ")[2].split("\n", 1)
    assert "n=1024" in same and "threads" not in same and "mechanism.chunk" not in same
    header, *rows = [line.split() for line in table.splitlines() if line.strip()]
    assert header == ["mechanism", "mechanism.chunk", "threads"]
    assert len({tuple(row) for row in rows}) == 4


def test_hyperparameters_of_one_mechanism_are_not_said_of_all(tmp_path: Path) -> None:
    assert "chunk" not in printed(tmp_path, "mechanism=linear,softmax")
    assert "mechanism.chunk=" in printed(tmp_path, "mechanism=linear")


def test_what_each_task_has_of_its_own_is_no_column(tmp_path: Path) -> None:
    tasks = ["mechanism=softmax", "task=recall_ns,lra_text", "pattern=NS"]
    text = printed(tmp_path, *tasks)
    of_tasks = [line for line in text.splitlines() if line.startswith("in all cases of ")]
    assert [line.split()[4] for line in of_tasks] == ["recall_ns", "lra_text"]
    assert all("training.steps=" in line for line in of_tasks) and text.count("training.steps") == 2
    header = printed(tmp_path, *tasks, "training.steps=10,20").splitlines()
    assert any(line.startswith("task") and "training.steps" in line for line in header)


def test_the_processes_that_a_wide_ratio_may_take_are_counted(tmp_path: Path) -> None:
    out = io.StringIO()
    for meters in ("latency_ratio", "latency"):
        asked = ["mechanism=linear", "task=speed", f"meters=[{meters}]"]
        print_preview(preview(asked, tmp_path), Console(file=out, width=200))
    first, second = [line for line in out.getvalue().splitlines() if "child processes" in line]
    assert first.endswith("child processes: 5, at most 10") and second.endswith("child processes: 5")


def test_a_name_is_never_folded(tmp_path: Path) -> None:
    text = printed(tmp_path, "mechanism=sparse_transformer,softmax", "pattern=CS,NS", "batch=1,2", width=40)
    assert "sparse_transformer" in text


def test_a_refusal_stands_beside_its_case(tmp_path: Path) -> None:
    assert "unsupported: nystrom does not support CS" in printed(tmp_path, "mechanism=nystrom", "pattern=CS,NS")


def test_a_name_between_colons_is_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    for stderr in (False, True):
        console(stderr=stderr).print("./two.py:One: lawful", highlight=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == "./two.py:One: lawful\n"


def test_a_count_of_one_is_singular() -> None:
    assert [counted(n, "case") for n in (0, 1, 1200)] == ["0 cases", "1 case", "1,200 cases"]


def test_damaged_files_are_named_whole_and_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ("x" * 200)
    print_damaged([Store(tmp_path, damaged=[path])])
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == f"a damaged results file was set aside: {path}\n"
