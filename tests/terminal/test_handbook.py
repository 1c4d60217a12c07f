"""docs/mechanisms.md is what the cards say. Every pattern has a grade or a reason, every hyper-parameter a comment."""

from pathlib import Path

import pytest
from cab.cli import app
from typer.testing import CliRunner

from cab import Pattern
from cab.plugins import registry
from cab.terminal.handbook import markdown

NAMES = registry.names("mechanism")


def test_the_page_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["list", "mechanisms", "--markdown"], prog_name="cab")
    assert printed.exit_code == 0
    assert printed.output == markdown()
    page = (Path(__file__).parents[2] / "docs" / "mechanisms.md").read_text()
    assert page == markdown(), "run: cab list mechanisms --markdown > docs/mechanisms.md"


@pytest.mark.parametrize("name", NAMES)
def test_every_pattern_has_a_grade_or_a_reason(name: str) -> None:
    facts = registry.card("mechanism", name).facts
    if isinstance(facts["patterns"], dict):
        assert set(facts["patterns"]) | set(facts["refuses"]) == set(Pattern.__members__)
        assert not set(facts["patterns"]) & set(facts["refuses"])


@pytest.mark.parametrize("name", NAMES)
def test_every_hyperparameter_is_explained_in_its_yaml(name: str) -> None:
    section = markdown().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) == len(registry.card("mechanism", name).params)
    assert not [row for row in rows if row.endswith("|  |")]


def test_a_mechanism_is_shown_with_the_reason_of_every_refusal() -> None:
    for name in NAMES:
        text = CliRunner().invoke(app, ["show", f"mechanism={name}"], prog_name="cab").output
        for reason in registry.card("mechanism", name).facts["refuses"].values():
            assert " ".join(reason.split()) in " ".join(text.split()), name


def test_markdown_is_of_mechanisms_alone() -> None:
    result = CliRunner().invoke(app, ["list", "tasks", "--markdown"], prog_name="cab")
    assert result.exit_code == 2
    assert "cab list mechanisms --markdown" in result.output
