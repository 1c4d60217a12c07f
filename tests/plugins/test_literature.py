"""Every title of the literature has a plug-in or a reason, and what the cards name is in the table."""

import io
import re
from pathlib import Path

import pytest
from cab.cli import app
from rich.console import Console
from typer.testing import CliRunner

from cab.analysis.ranking import leaderboard
from cab.contracts.case import Case
from cab.errors import UsageError
from cab.planning.plan import plan
from cab.plugins import registry
from cab.plugins.literature import literature
from cab.terminal.listing import print_list
from tests.analysis.example_rows import case_rows, environments, table_of

TITLES = {each.title: each for each in literature()}


def test_the_table_holds_each_of_the_88_titles_once() -> None:
    assert len(literature()) == len(TITLES) == 88


def test_every_title_has_a_plugin_or_a_reason_and_never_both() -> None:
    neither = [each.title for each in literature() if not each.plugins and not each.reason]
    both = [each.title for each in literature() if each.plugins and each.reason]
    assert not neither
    assert not both


def test_cards_name_titles_of_the_table() -> None:
    for name, card in registry.cards_of("mechanism").items():
        assert not isinstance(card, UsageError)
        assert not [title for title in card.facts["titles"] if title not in TITLES], name


def test_words_find_the_plugin_of_a_title_or_say_why_there_is_none() -> None:
    found = CliRunner().invoke(app, ["list", "agent", "integration", "of", "softmax"], prog_name="cab")
    assert "Agent Attention: On the Integration of Softmax and Linear Attention\n    agent\n" in found.output
    none = CliRunner().invoke(app, ["list", "gui-world"], prog_name="cab")
    assert "none: a data set" in none.output


@pytest.mark.parametrize("title", TITLES)
def test_the_words_of_each_title_find_it_with_its_plugin_or_the_reason(title: str) -> None:
    out = io.StringIO()
    print_list(re.findall(r"[\w-]+", title), Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    verdict = lines[lines.index(title) + 1].strip()
    names = [card.name for card in TITLES[title].plugins]
    reason = TITLES[title].reason
    assert verdict == f"none: {reason}" if reason else verdict.partition(", provisional")[0].split(", ") == names


def test_boards_of_the_four_patterns_show_the_plugins_of_all_titles() -> None:
    supported = {
        (card.name, pattern)
        for each in literature()
        for card in each.plugins
        for pattern in (card.facts["patterns"] if card.name != "moh" else ("NS", "CS", "NC", "CC"))
    }
    names = ",".join(sorted({name for name, _ in supported} - {"ela", "ila", "moh"}))
    every = ["task=speed", "pattern=NS,CS,NC,CC", "seq_len=64", "meters=[flops]"]
    asked = [[f"mechanism={names}"], ["mechanism=ela", "raster=[8,8]"], ["mechanism=ila", "raster=[4,4,4]"]]
    asked.append(["mechanism=moh", "mechanism@mechanism.inner=softmax"])  # a wrapper: as the mechanism inside
    planned = [each for overrides in asked for each in plan([*every, *overrides]).measurements if not each.refusal]
    cases = [case_rows({"flops": 1.0}, each.case.params, each.case.settings, **sizes_of(each.case)) for each in planned]
    boards = leaderboard(table_of(*cases), environments())
    shown = {(line.mechanism, board.question["pattern"]) for board in boards for line in board.lines}
    assert not supported - shown


def sizes_of(case: Case) -> dict[str, object]:
    return {"mechanism": case.mechanism, "pattern": case.pattern, "n": case.n, "m": case.m}


def test_a_mechanism_that_equals_another_implementation_is_compared_with_it_in_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (Path(__file__).parents[1] / "against_others").glob("test_*.py"))
    for name, card in registry.cards_of("mechanism").items():
        assert not isinstance(card, UsageError)
        if card.facts["parity"]:
            assert re.search(rf"\"{name}\"|\b{card.class_name}\b", tests), name
