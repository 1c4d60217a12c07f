"""`cab pick` as a user reads it. Which mechanism is the first depends on the reference, and stands in no test."""

import json
from pathlib import Path
from typing import Any

from cab.cli import app
from typer.testing import CliRunner

from cab.store import bundle
from tests.analysis.example_rows import case_rows, table_of

ASKED = ["pattern=CC", "seq_len=2048", "--max", "peak_allocated=64MiB"]


def answer() -> dict[str, Any]:
    """Ask for JSON where there are no results."""
    done = CliRunner().invoke(app, ["pick", *ASKED, "--results", "nothing", "--json"])
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def test_the_reference_answers_where_there_are_no_results() -> None:
    done = CliRunner().invoke(app, ["pick", *ASKED, "--results", "nothing"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert any(line.split()[:2] == ["1", answer()["fitting"][0]["mechanism"]] for line in lines)
    assert "out, peak_allocated above 64MiB: bigbird" in done.output
    names = [line.split()[1] for line in lines if line.split()[:1] and line.split()[0].isdecimal()]
    assert names and not {"none", "mean"} & {*names}


def test_as_json_it_holds_what_fits_by_score_and_of_equal_scores_the_fastest_first() -> None:
    found = answer()
    fitting = found["fitting"]
    assert len(fitting) > 5 and found["limits"] == {"peak_allocated": 64 * 2**20}
    assert found["ordered_by"] == "aggregate" and "between the floor (0) and softmax (1)" in found["quality"]
    assert any("seq_len" not in command and "task=cab_sum" in command for command in found["missing"]), "scores"
    assert all(each["costs"]["peak_allocated"]["value"] <= 64 * 2**20 for each in fitting)
    order = [(each["group"], each["costs"]["latency"]["value"]) for each in fitting]
    assert order == sorted(order) and all(each["score"]["value"] is not None for each in fitting)


def test_what_is_interpolated_says_its_grade_too(tmp_path: Path) -> None:
    cases = [
        case_rows({"latency": (1.0, 0.9, 1.1)}, mechanism="linear", grade="extension", pattern="CC", n=n, m=n)
        for n in (256, 1024)
    ]
    table_of(*cases).to_parquet(tmp_path / bundle.ROWS)
    done = CliRunner().invoke(app, ["pick", "pattern=CC", "seq_len=512", "--results", str(tmp_path)])
    assert "extension, interpolated" in done.output, done.output


def test_where_nothing_fits_the_exit_code_says_so(tmp_path: Path) -> None:
    table_of(case_rows({"latency": 1.0}, mechanism="linear", pattern="CC", n=512, m=512)).to_parquet(
        tmp_path / bundle.ROWS
    )
    asked = ["pick", "pattern=CC", "seq_len=512", "--results", str(tmp_path), "--max"]
    for limit, code in (("latency=2s", 0), ("latency=1ms", 1)):
        done = CliRunner().invoke(app, [*asked, limit])
        assert done.exit_code == code and ("nothing fits" in done.output) == bool(code), done.output


def test_the_command_that_measures_what_is_missing_is_named(tmp_path: Path) -> None:
    cases = [
        case_rows({"latency": (1.0, 0.9, 1.1), "peak_allocated": 1e6}, mechanism=name, pattern="CC", n=2048, m=2048)
        for name in ("softmax", "linear")
    ]
    table_of(*cases).to_parquet(tmp_path / bundle.ROWS)
    done = CliRunner().invoke(app, ["pick", *ASKED, "--results", str(tmp_path), "--json"])
    [missing] = json.loads(done.stdout)["missing"]
    assert "pattern=CC seq_len=2048" in missing and "efficient" in missing and "linear" not in missing.split(",")
