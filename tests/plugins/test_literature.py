"""Every title of the literature has a plug-in or a reason, and what the cards name is in the table."""

import re
from pathlib import Path

from cab.cli import app
from typer.testing import CliRunner

from cab.errors import UsageError
from cab.plugins import registry
from cab.plugins.literature import literature

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


def test_a_mechanism_that_equals_another_implementation_is_compared_with_it_in_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (Path(__file__).parents[1] / "against_others").glob("test_*.py"))
    for name, card in registry.cards_of("mechanism").items():
        assert not isinstance(card, UsageError)
        if card.facts["parity"]:
            assert re.search(rf"\b{name}\b|\b{card.class_name}\b", tests), name
