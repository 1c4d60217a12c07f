"""What the lists and `cab show` say of a card."""

import io
from typing import Any

import pytest
from rich.console import Console

from cab.errors import UsageError
from cab.plugins.cards import Card
from cab.terminal.listing import input_texts, patterns_by_reason, print_plugin, reads_text


def card(**facts: Any) -> Card:
    """Make a mechanism's card with some facts."""
    return Card("mechanism", "mine", "mine.py", "Mine", facts, {}, [], "")


@pytest.mark.parametrize(
    ("reads", "text"),
    [
        ("qkv", "q, k, v"),
        ("", "nothing"),
        ([["qv", {"kind": "dense"}], "v"], "q, v with kind=dense; otherwise v"),
        ([["qk", {"a": 1, "b": [2, 3]}], ""], "q, k with a=1 and b=2 or 3; otherwise nothing"),
    ],
)
def test_what_is_read_is_said_with_the_hyperparameters_that_it_depends_on(reads: Any, text: str) -> None:
    assert reads_text(card(reads=reads)) == text


def test_an_input_is_named_with_the_hyperparameters_that_it_depends_on() -> None:
    inputs = {"y": ["keys", "real", "width"], "x": ["queries", "real", "width", {"gate": ["full", "low"]}]}
    assert input_texts(card(inputs=inputs)) == ["y", "x with gate=full or low"]


def test_patterns_that_are_refused_for_one_reason_stand_together() -> None:
    refuses = {"CS": "it pools", "NC": "no order", "CC": "no order"}
    assert patterns_by_reason(refuses) == {"it pools": ["CS"], "no order": ["NC", "CC"]}


def test_a_metric_is_shown_with_its_method() -> None:
    out = io.StringIO()
    print_plugin("metric=latency", Console(file=out, width=200))
    assert "median over 5 fresh processes" in out.getvalue() and "seconds" in out.getvalue()
    with pytest.raises(UsageError, match="did you mean 'latency'"):
        print_plugin("metric=latencyy", Console(file=out))
