"""The commands: they answer at once, and what is wrong is one message with exit code 2."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cab.cli import app
from typer.testing import CliRunner

from cab.contracts.case import digest
from cab.tracking import compare as comparing
from cab.tracking import page, requested, sides
from cab.tracking.compare import Comparison
from cab.tracking.foreign import as_pytest_benchmark
from cab.tracking.history import Point, append, read
from cab.tracking.sides import NoData, Side
from cab.tracking.signed_rank import Effect
from cab.tracking.verdicts import Verdict

LEFT_OUT = "2 values left out, of no time or of a benchmark that failed"
POINT = Point("abc", 1000.0, "softmax CS", "e1", "latency", 0.002, "s", "cab", 5000.0)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["track", *arguments])
    return result.exit_code, result.output


def test_help_imports_nothing_slow() -> None:
    slow = ("torch", "scipy", "pandas", "hydra")
    code = f"import sys, cab.tracking.commands; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["compare"], "is in no git checkout"),
        (["compare", "HEAD", "--against", "backend=sdpa"], "one of the two"),
        (["compare", "nosuch-revision"], "is in no git checkout"),
        (["compare", "--against", "seq_len=4"], "give backend=NAME or mechanism=NAME"),
        (["compare", "--against", "backend=sdpa", "--minimum", "0"], "smallest change that counts"),
        (["compare", "--against", "backend=sdpa", "--case", "mechanism=nosuch"], "unknown mechanism 'nosuch'"),
        (["compare", "--against", "backend=nosuch"], "unknown backend 'nosuch'. Accepted: compile, eager"),
        (["compare", "--against", "mechanism=nosuch"], "unknown mechanism 'nosuch'"),
        (["compare", "plain"], "is in no git checkout"),
        (["import", "nosuch.json"], "nosuch.json: No such file or directory"),
        (["export", "abc", "out.json"], "unknown commit of the history 'abc'"),
        (["accept", "abc", "why"], "unknown commit with a change 'abc'"),
        (["plot"], "there are no points in"),
        (["plot", "."], ". is a folder: give the page's file, as history.html"),
        (["record"], "is in no git checkout"),
    ],
)
def test_what_is_wrong_is_one_message(elsewhere: Path, arguments: list[str], message: str) -> None:
    Path("plain").write_text("a file that is neither a folder nor a Python")
    code, output = run(*arguments)
    assert code == 2 and message in " ".join(output.split()) and "Traceback" not in output


def test_results_of_others_go_through_the_history(elsewhere: Path) -> None:
    Path("in.json").write_text(as_pytest_benchmark([POINT]))
    assert run("import", "in.json")[0] == 0
    code, output = run("history", "--case", "softmax")
    assert code == 0 and "softmax CS, latency" in output and "0.002 s" in output
    assert (
        run("history", "--last", "0")[1]
        == f"softmax CS, latency, environment {digest({'node': 'e1', 'cpu': {}}, 12)}: 1 point\n"
    )
    assert run("plot", "page.html") == (0, "page.html\n") and Path("page.html").read_text().startswith("<!doctype")
    assert run("export", "abc", "out.json")[0] == 0
    assert '"median": 0.002' in Path("out.json").read_text()


def test_a_change_is_printed_until_its_reason_is_given(elsewhere: Path) -> None:
    for i in range(50):
        value = (0.002 if i < 30 else 0.003) * (1 + 0.001 * (i % 7))
        point = replace(POINT, commit=f"commit{i}", time=1000.0 + i, value=value)
        Path(f"{i}.json").write_text(as_pytest_benchmark([point]))
    assert run("import", *(f"{i}.json" for i in range(50)))[0] == 0
    assert "+50.0% at commit30\n" in run("history")[1]
    assert run("accept", "commit30", "more exact\nnow")[0] == 0
    assert "+50.0% at commit30, accepted: more exact now\n" in run("history")[1]


def test_export_counts_what_it_writes_and_a_time_of_0_is_written(elsewhere: Path) -> None:
    append(Path("results/track/history"), [replace(POINT, value=0.0), replace(POINT, metric="FLOPs", unit="count")])
    assert run("export", "abc", "out.json") == (0, "1 points, in out.json; 1 that are no times are left out\n")
    assert '"ops": 0' in Path("out.json").read_text()


def test_export_takes_a_commit_as_the_history_prints_it(elsewhere: Path) -> None:
    name = "1a2b3c4d5e6f" + 28 * "0"
    append(Path("results/track/history"), [replace(POINT, commit=name), replace(POINT, commit="1a9" + 37 * "0")])
    assert "  1a2b3c4d5e6f  " in run("history")[1]
    assert run("export", "1a2b3c4d5e6f", "out.json")[0] == 0 and name in Path("out.json").read_text()
    code, output = run("export", "1a", "out.json")
    assert code == 2 and "'1a' is the beginning of 2 commits" in output


def test_a_history_without_such_a_case_is_not_called_empty(elsewhere: Path) -> None:
    append(Path("results/track/history"), [POINT])
    code, output = run("history", "--case", "nothing")
    assert code == 0 and "no case whose name holds 'nothing'" in output and "no points" not in output


def test_a_commit_without_times_is_not_exported(elsewhere: Path) -> None:
    append(Path("results/track/history"), [replace(POINT, metric="FLOPs", unit="count")])
    code, output = run("export", "abc", "out.json")
    assert code == 2 and "none of these points is a time" in " ".join(output.split()) and not Path("out.json").exists()


def test_the_history_goes_out_as_otavas_json_with_what_every_commit_has(elsewhere: Path) -> None:
    later = replace(POINT, commit="def", time=2000.0, value=0.003)
    append(Path("results/track/history"), [later, POINT, replace(POINT, case="new", commit="def", time=2000.0)])
    code, output = run("export", "def", "out.json", "--otava")
    assert code == 0 and output == "left out, because a commit lacks it: new, latency\n2 commits, in out.json\n"
    rows = json.loads(Path("out.json").read_text())
    assert [(row["timestamp"], row["attributes"]["commit"], row["metrics"]) for row in rows] == [
        (1000, "abc", [{"name": "softmax CS, latency", "value": 0.002}]),
        (2000, "def", [{"name": "softmax CS, latency", "value": 0.003}]),
    ]


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cab: No space left on device; what was there is"),
        (
            PermissionError(errno.EACCES, "Permission denied", "page.html"),
            "cab: page.html: Permission denied; what was there",
        ),
        (RuntimeError("a mistake of ours"), "RuntimeError: a mistake of ours"),
    ],
)
def test_what_goes_wrong_never_looks_like_a_confirmed_regression(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    append(Path("results/track/history"), [POINT])

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(page, "write_page", fail)
    code, output = run("plot", "page.html")
    assert code == 2 and said in " ".join((output + capfd.readouterr().err).split())


@pytest.mark.parametrize("command", [("plot", "out"), ("export", "abc", "out")])
def test_a_full_disk_names_the_file_that_is_not_written(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    append(Path("results/track/history"), [POINT])
    Path("out").write_text("before")
    with monkeypatch.context() as full:
        full.setattr(os, "replace", no_space)
        said = run(*command)
    assert said == (2, "cab: out: No space left on device; what was there is as it was\n")
    assert Path("out").read_text() == "before"


def test_a_full_disk_while_a_commit_is_unpacked_names_the_folder(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpacked(*arguments: object) -> None:
        with sides._whole(Path("sources").absolute()):
            no_space()

    monkeypatch.setattr(requested, "requested_sides", unpacked)
    code, output = run("compare")
    assert code == 2 and f"{Path.cwd()}/sources: No space left on device; what is measured is kept" in output
    assert not list(Path().iterdir())


def no_space(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_verdict_is_printed_before_files_are_written(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = Verdict("same", Effect(0.0, -0.01, 0.01), 1.0, 6)
    side = Side("one", "one")
    done = Comparison(side, side, {"softmax": same}, {}, {"softmax": (0.001, 0.001)})
    monkeypatch.setattr(comparing, "compare", lambda *arguments, **settings: done)
    monkeypatch.setattr(requested, "requested_sides", lambda *arguments: (side, side))
    Path("file").write_text("")
    code, output = run("compare", "--case", "mechanism=linear", "--comment", "file/comment.md")
    assert code == 2 and "no confirmed regression (exit code 0)" in output and "cab: file: File exists" in output


def test_the_same_comparison_after_an_answer_is_measured_anew_and_after_a_failure_goes_on(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []

    def measured(*arguments: object, servers: object) -> dict[str, object]:
        calls.append(0.0)
        return {"base": [0.001], "head": [0.001], "log_ratio": 0.0, "counts": {"base": {}, "head": {}}}

    sides = (Side("one", "one"), Side("two", "two"))
    monkeypatch.setattr(comparing, "measure_pair", measured)
    monkeypatch.setattr(requested, "requested_sides", lambda *arguments: sides)
    Path("file").write_text("")
    arguments = ("compare", "--case", "mechanism=linear", "--case", "pattern=CS", "--case", "seq_len=64")
    assert run(*arguments, "--comment", "file/comment.md")[0] == 2
    once = len(calls)
    assert run(*arguments)[0] == 0 and len(calls) == once > 0, "what could not be written is written without a pair"
    assert run(*arguments)[0] == 0 and len(calls) == 2 * once


def test_a_side_that_cannot_be_measured_is_one_message(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*arguments: object) -> None:
        raise NoData("it has no cab installed")

    monkeypatch.setattr(requested, "requested_sides", nothing)
    assert run("compare") == (2, "cab: it has no cab installed\n")


def test_an_import_says_how_many_benchmarks_are_of_no_times(elsewhere: Path) -> None:
    data = {"commit_hash": "abc", "date": 1000, "result_columns": ["result"]}
    data["results"] = {"time_x": [[0.5]], "peakmem_x": [[1e6]], "track_x": [[0.9]]}
    Path("asv.json").write_text(json.dumps(data))
    folder = "results/track/history"
    assert run("import", "asv.json") == (0, f"1 point from 1 file, in {folder}; {LEFT_OUT}\n")


def test_an_import_that_leaves_nothing_says_what_was_left_out_and_what_is_accepted(elsewhere: Path) -> None:
    data = {"commit_hash": "abc", "date": 1000, "result_columns": ["result"]}
    data["results"] = {"time_x": [[None]], "peakmem_x": [[1e6]]}
    Path("asv.json").write_text(json.dumps(data))
    code, output = run("import", "asv.json")
    assert code == 2 and f"cab: no time was measured in asv.json; {LEFT_OUT}. Accepted: times above 0" in output


def test_what_is_imported_again_after_a_clock_was_set_back_counts(elsewhere: Path) -> None:
    folder = Path("results/track/history")
    for value in (0.002, 0.003):
        Path("in.json").write_text(as_pytest_benchmark([replace(POINT, value=value)]))
        assert run("import", "in.json")[0] == 0
        (known,) = read(folder)
        assert known.value == value
        append(folder, [replace(known, recorded=1e12)])  # of a clock that is far ahead
