"""The page alone answers what readers come with, each in at most three actions: a click, a choice or a text."""

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from cab.analysis.results import Results
from tests.analysis.example_rows import case_rows, table_of, training_rows
from tests.report.example_results import grid_cases, results_of

MOST_ACTIONS = 3
Opened = Callable[..., "Reader"]


class Reader:
    """Somebody at the page, whose actions are counted."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.actions = 0

    def click(self, selector: str) -> None:
        """Click what a selector finds."""
        self._count()
        self.page.locator(selector).first.click()

    def tab(self, name: str) -> None:
        """Open a tab."""
        self._count()
        self.page.get_by_role("tab", name=name, exact=True).click()

    def button(self, name: str) -> None:
        """Click a button by its name."""
        self._count()
        self.page.get_by_role("button", name=name, exact=True).click()

    def choose(self, name: str, value: str) -> None:
        """Choose from a list."""
        self._count()
        self.page.locator(f"select[name={name}]").select_option(value)

    def type(self, name: str, text: str) -> None:
        """Write into a field and press Enter."""
        self._count()
        self.page.locator(f"input[name={name}]").fill(text)
        self.page.locator(f"input[name={name}]").press("Enter")

    def text(self, selector: str = "#panel") -> str:
        """Read, which is no action."""
        return str(self.page.locator(selector).first.inner_text())

    def _count(self) -> None:
        self.actions += 1
        assert self.actions <= MOST_ACTIONS


def costs() -> Results:
    """Return costs of some mechanisms in four patterns, four lengths and two passes."""
    return results_of(*grid_cases(), *grid_cases("forward_backward"))


def costs_and_scores() -> Results:
    """Return costs, and what the same mechanisms learned in two patterns."""
    scores = {"none": 0.01, "softmax": 0.99, "fast": 0.4, "lean": 0.8}
    trainings = [
        training_rows(name, (score, score - 0.02, min(score + 0.02, 1.0)), pattern=pattern, task="recall", n=64, m=64)
        for name, score in scores.items()
        for pattern in ("CS", "CC")
    ]
    return results_of(*grid_cases(), *trainings)


def everything() -> Results:
    """Return costs in two passes, and scores: the board that the page opens with is one of scores."""
    scores = costs_and_scores()
    return Results(
        pd.concat([scores.rows, table_of(*grid_cases("forward_backward"))], ignore_index=True), scores.environments
    )


@pytest.fixture
def read(show: Callable[..., Any]) -> Callable[[Results], Reader]:
    """Return a function that opens the page of some results as everybody does: at no address."""
    return lambda results: Reader(show(results))


def test_a_fourth_action_fails_the_test(read: Opened) -> None:
    reader = read(costs())
    for _ in range(MOST_ACTIONS):
        reader.button("◐")
    with pytest.raises(AssertionError):
        reader.button("◐")


def test_which_for_cc_at_2048_within_64_mib_and_how_sure(read: Opened) -> None:
    reader = read(costs())
    reader.click("[data-filter=pattern][data-value=CC]")
    reader.click("[data-filter=length][data-value='2048']")
    reader.type("mem", "64")
    assert reader.text("#answer").startswith("lean: 4,000 ms [3,840, 4,200], 10.0 MiB; 4.00× as fast as softmax")
    assert "Told apart from the next" not in reader.text("#answer")  # nothing else fits


def test_the_same_question_in_one_line_among_other_tasks(read: Opened) -> None:
    reader = read(costs_and_scores())
    reader.type("find", "task=speed pattern=CC n=2048 mem=64MiB")
    assert reader.text("#answer").startswith("lean: 4,000 ms [3,840, 4,200], 10.0 MiB")
    assert "causal cross (CC), n = 2,048, within 64 MiB" in reader.text("#answer")
    assert reader.page.locator("input[name=find]").input_value() == ""


def test_what_is_no_question_is_a_part_of_a_name(read: Opened) -> None:
    reader = read(costs())
    reader.type("find", "pattern=ZZ lea")
    assert "find=pattern" in reader.page.url and "No mechanism passes" in reader.text("#answer")
    reader.type("find", "lea")
    assert reader.page.locator("tr.line").count() == 1


def test_from_which_n_does_it_win_in_cs_backward(read: Opened) -> None:
    reader = read(costs())
    reader.click("[data-filter=pattern][data-value=CS]")
    reader.click("[data-filter=pass][data-value=forward_backward]")
    reader.tab("Lengths")
    assert "causal self (CS), forward backward" in reader.text()
    rows = reader.page.locator("table.wins tbody tr").all_inner_texts()
    (lean,) = [row for row in rows if row.startswith("lean")]
    assert re.search(r"\b512 \[\d+, \d+\]", lean)


def test_the_same_of_one_pass_among_other_tasks(read: Opened) -> None:
    reader = read(everything())
    reader.type("find", "task=speed pattern=CS pass=forward_backward")
    reader.tab("Lengths")
    assert "causal self (CS), forward backward" in reader.text()
    assert "lean" in reader.text("table.wins")


def test_what_does_accuracy_cost(read: Opened) -> None:
    reader = read(costs_and_scores())
    reader.type("find", "task=speed pattern=CC n=2048")
    reader.tab("Trade-off")
    assert "Frontier: fast, lean, softmax" in reader.text()
    assert reader.page.locator("select[name=y]").input_value() == "recall: accuracy"


def test_a_against_b(read: Opened) -> None:
    reader = read(costs())
    reader.tab("Compare")
    reader.choose("a", "lean")
    reader.choose("b", "fast")
    assert "lean against fast, latency: better in 0 of 32 cases, worse in 32" in reader.text("#panel .answer")


def test_a_against_b_of_scores_and_of_costs(read: Opened) -> None:
    reader = read(everything())
    reader.tab("Compare")
    reader.choose("a", "lean")
    assert "lean against softmax, accuracy: better in 0 of 2 cases, worse in 2" in reader.text("#panel .answer")
    reader = read(everything())
    reader.type("find", "task=speed")
    reader.tab("Compare")
    reader.choose("a", "lean")
    assert "lean against softmax, latency: better in" in reader.text("#panel .answer")


def test_which_rows_are_weak(read: Opened) -> None:
    wide = case_rows({"latency": (1.0, 0.5, 2.0)}, mechanism="shaky", n=256, m=256, converged=False)
    reader = read(results_of(*grid_cases(), wide))
    reader.tab("Quality")
    assert "shaky" in reader.text("#panel table:not(.quality) tbody tr")


def test_what_failed_and_why(read: Opened) -> None:
    reader = read(costs())
    reader.tab("Failures")
    assert re.search(r"oom\s+8 GiB of 8\s+32\s+broken", reader.text())


def test_the_command_behind_a_number(read: Opened) -> None:
    reader = read(costs())
    reader.click("[data-filter=pattern][data-value=CC]")
    reader.click("tr.line[data-label=lean] button")
    command = reader.text(".command code")
    assert command.startswith("cab run mechanism=lean backend=eager task=speed pattern=CC seq_len=2048 ")


def test_a_table_for_a_paper(read: Opened) -> None:
    reader = read(costs())
    reader.click("[data-filter=pattern][data-value=CC]")
    reader.button("tex")
    assert "1 & fast & 2,000 &" in reader.page.locator("textarea").input_value()
