"""A card's `accepts`: values that it leaves out are refused before the constructor runs."""

import pytest

from cab import Mechanism, Slot
from cab.conformance import check
from cab.contracts.accepted import refusal
from cab.contracts.pattern import Pattern


class Careful(Mechanism):
    patterns = {"NS": "native"}
    accepts = {
        "window": ">= 1",
        "form": ("short", "long"),
        "share": "> 0, <= 1",
        "conv": "0 or odd",
        "rank": "whole, >= 1",
    }

    def __init__(
        self, slot, *, window: int = 7, form: str = "short", share: float = 0.5, conv: int = 3, rank: int | None = None
    ) -> None:
        super().__init__(slot)
        assert window >= 1 and rank != 0, "the constructor sees accepted values alone"


def build(**params):
    return Careful(Slot(Pattern.NS, heads=2, dim=4, max_len=8), **params)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 1),
        ("form", "long"),
        ("share", 1),
        ("share", 0.1),
        ("conv", 0),
        ("conv", 5),
        ("rank", None),
        ("rank", 3),
    ],
)
def test_what_the_card_accepts_is_built(name, value):
    build(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("window", 0, "window=0: a whole number is needed, >= 1"),
        ("window", 1.5, "window=1.5: a whole number"),
        ("window", "3", "window='3': a whole number"),
        ("window", True, "window=True"),
        ("window", None, "window=None"),
        ("form", "wide", "form='wide': one of short, long"),
        ("share", 0, "share=0: a number is needed, > 0, <= 1"),
        ("share", 1.1, "share=1.1"),
        ("share", float("nan"), "share=nan"),
        ("conv", 2, "conv=2: a whole number is needed, 0 or odd"),
        ("rank", 0, "rank=0"),
        ("rank", 2.5, "rank=2.5"),
    ],
)
def test_what_the_card_leaves_out_is_refused_by_name_before_the_constructor_runs(name, value, message):
    with pytest.raises(ValueError, match=message):
        build(**{name: value})


@pytest.mark.parametrize(("value", "fits"), [(1, True), (8, True), (6, False), (0, False), (-2, False)])
def test_a_power_of_two_is_one(value, fits):
    assert (refusal("chunk", value, "power of two", 64) is None) is fits


@pytest.mark.parametrize(
    ("accepts", "message"),
    [
        ({"windows": ">= 1"}, "'windows' is no hyper-parameter"),
        ({"window": "at least 1"}, "'at least 1' is no condition"),
        ({"window": ">= 8"}, "the default is refused: window=7"),
    ],
)
def test_the_law_of_the_card_names_what_is_wrong_with_an_entry(accepts, message):
    class Wrong(Careful):
        pass

    Wrong.accepts = accepts
    (card, *_) = check(Wrong, patterns=["CS"])
    assert card.status == "fail" and message in card.reason
