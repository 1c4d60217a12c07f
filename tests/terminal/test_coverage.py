"""docs/coverage.md is what the cards and the table of titles say, with no empty row."""

from pathlib import Path

from cab.cli import app
from typer.testing import CliRunner

from cab.plugins import registry
from cab.plugins.literature import literature
from cab.terminal.coverage import markdown, timed_only


def test_the_page_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["list", "titles", "--markdown"], prog_name="cab")
    assert printed.exit_code == 0
    assert printed.output == markdown()
    page = (Path(__file__).parents[2] / "docs" / "coverage.md").read_text()
    assert page == markdown(), "run: cab list titles --markdown > docs/coverage.md"


def test_every_title_has_a_row_that_says_something() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == sum(max(len(each.plugins), 1) for each in literature())
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] != "-" or cells[5] not in ("", "not written yet"), row


def test_where_a_native_pattern_is_ours_stands_beside_its_grade() -> None:
    (row,) = [line for line in markdown().splitlines() if "[fasa](" in line]
    assert "| N - E E; ours on 1 axis |" in row
    (row,) = [line for line in markdown().splitlines() if "[deformable](" in line]
    assert "ours on 1 or 3 axes in NS; reading 1 axis in NC, CC; with depth=True" in row
    assert "with rotary positions" in next(line for line in markdown().splitlines() if "[mamba2](" in line)


def test_what_no_task_can_train_is_said_to_be_timed_only() -> None:
    texts = {name: timed_only(registry.card("mechanism", name)) for name in registry.names("mechanism")}
    assert {name: text for name, text in texts.items() if text} == {
        "coarse_to_fine": "timed only: no task offers `fine`",
        "deformable": "with depth=True timed only: no task offers `depth`",
    }
    (row,) = [line for line in markdown().splitlines() if "[coarse_to_fine](" in line]
    assert row.endswith("| timed only: no task offers `fine` |")
