"""What `cab list` selects."""

import io
import json
from typing import Any

import pytest
from cab.cli import app
from rich.console import Console
from typer.testing import CliRunner

from cab.errors import UsageError
from cab.plugins.cards import Card
from cab.terminal.listing import print_list
from cab.terminal.selection import growth, selection


def names(*arguments: str) -> list[str]:
    return [name for name, _ in selection(list(arguments)).cards("mechanism")]


def printed(*arguments: str) -> str:
    out = io.StringIO()
    print_list(list(arguments), Console(file=out, width=100))
    return out.getvalue()


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ("O(1)", "constant"),
        ("O((n + m) d^2)", "linear"),
        ("O(n log n d)", "linear"),
        ("O((n + m) log(n) d)", "linear"),
        ("O(n m d)", "quadratic"),
        ("O(n^2)", "quadratic"),
        ("O(n w d + (n + m) (m / w) d)", "quadratic"),
        ("O(n w m / n)", "linear"),
        ("O(n w d), CS O(n (w + n / c) d)", "quadratic"),
        ("O(3^axes n d)", "linear"),
        ("O(n^a)", "quadratic"),
        ("O(n^)", ""),
        ("that of the inner mechanism", ""),
    ],
)
def test_the_growth_of_a_cost_is_its_highest_power_of_tokens(cost: str, expected: str) -> None:
    assert growth(cost) == expected


def test_every_cost_of_the_project_has_a_growth_but_those_of_wrappers() -> None:
    without = [n for n, c in selection([]).cards("mechanism") if isinstance(c, Card) and not growth(c.facts["cost"])]
    assert set(without) <= {"hybrid"}


def test_a_pattern_selects_what_the_card_declares() -> None:
    assert {"softmax", "nystrom"} <= set(names("pattern=NC"))
    assert "nystrom" not in names("pattern=NC,CS") and "softmax" in names("pattern=NC,CS")
    assert "moh" not in names("pattern=NC")  # a wrapper, whose patterns depend on what is inside


def test_selections_join() -> None:
    linear = set(names("cost=linear"))
    assert set(names("cost=linear", "streams=no")) == linear - set(names("streams=yes"))
    assert names("exact=yes") == ["pwca", "softmax"]  # pwca is softmax in evaluation
    assert "sigmoid" in names("streams=yes", "cost=quadratic") and "mean" in names("streams=yes", "cost=linear")


def test_a_task_selects_what_can_be_trained_on_it() -> None:
    on_text = names("task=lra_text")
    assert "softmax" in on_text and "ela" not in on_text  # it takes rasters alone
    assert "ela" in names("task=lra_image")
    assert "probsparse_leaky" not in on_text  # no NS
    assert "ela" in names("task=speed")


def test_words_search_names_descriptions_and_papers() -> None:
    assert names("2404.07143") == [] and names("2009.14794") == ["performer"]
    assert "local" in names("window") and "linear" not in names("window")
    assert set(names("window", "shifted")) <= set(names("window"))
    assert "lra_text" in printed("byte") and "softmax" not in printed("byte")
    assert "nothing matches" in printed("zzz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cost=lin"], "unknown cost 'lin'; did you mean 'linear'"),
        (["patern=CS"], "unknown key 'patern'; did you mean 'pattern'"),
        (["pattern=XX"], "unknown pattern 'XX'"),
        (["streams=maybe"], "Accepted: no, yes"),
        (["task=lra_txt"], "did you mean 'lra_text'"),
        (["tasks", "cost=linear"], "selects mechanisms, not tasks"),
        (["mechanism"], "did you mean 'mechanisms'"),
    ],
    ids=" ".join,
)
def test_a_selection_that_cannot_be_understood_is_one_message(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        selection(arguments)


def test_a_list_fits_100_columns_and_few_mechanisms_come_with_their_reasons() -> None:
    assert max(map(len, printed("mechanisms").splitlines())) <= 100
    assert "block_local refuses NC, CC" in printed("block_local")
    assert "refuses" not in printed("mechanisms")


def test_the_cards_are_json_too() -> None:
    output = CliRunner().invoke(app, ["list", "streams=yes", "window", "--json"], prog_name="cab").output
    (local,) = [card for card in json.loads(output)["mechanisms"] if card["name"] == "local"]
    assert local["patterns"]["CS"] == "native" and local["streams"] is True and local["growth"] == "linear"
    everything: dict[str, Any] = json.loads(CliRunner().invoke(app, ["list", "--json"], prog_name="cab").output)
    assert set(everything) == {"mechanisms", "tasks", "meters", "grids"}


def test_a_word_begins_a_word_of_what_is_listed() -> None:
    assert "sparse_transformer" in names("transformer") and "local" in names("window")
    assert names("xcit") == []  # no excitation
