"""`cab pick` as a user reads it. Which mechanism is the first depends on the reference, and stands in no test."""

import json
from typing import Any

from cab.cli import app
from typer.testing import CliRunner

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
    assert not any(line.split()[1:2] in (["none"], ["mean"]) for line in lines)


def test_as_json_it_holds_what_fits_the_fastest_first() -> None:
    found = answer()
    costs = [each["costs"] for each in found["fitting"]]
    assert len(costs) > 10 and found["ordered_by"] == "latency" and found["limits"] == {"peak_allocated": 64 * 2**20}
    assert all(cost["peak_allocated"]["value"] <= 64 * 2**20 for cost in costs)
    assert costs[0]["latency"]["value"] == min(cost["latency"]["value"] for cost in costs)
    assert "pattern=CC seq_len=2048" in found["missing"]
