"""`cab pick` as a user reads it."""

import json

from cab.cli import app
from typer.testing import CliRunner

ASKED = ["pattern=CC", "seq_len=2048", "--max", "peak_allocated=64MiB"]


def test_the_reference_answers_where_there_are_no_results() -> None:
    done = CliRunner().invoke(app, ["pick", *ASKED, "--results", "nothing"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert any(line.split()[:2] == ["1", "efficient"] for line in lines)
    assert "out, peak_allocated above 64MiB: bigbird" in done.output
    assert not any(line.split()[1:2] in (["none"], ["mean"]) for line in lines)


def test_as_json_it_says_the_same() -> None:
    done = CliRunner().invoke(app, ["pick", *ASKED, "--results", "nothing", "--json"])
    answer = json.loads(done.stdout)
    assert answer["fitting"][0]["mechanism"] == "efficient" and answer["limits"] == {"peak_allocated": 64 * 2**20}
    assert "pattern=CC seq_len=2048" in answer["missing"]
