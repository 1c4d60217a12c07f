"""What is read for which hyper-parameters, and what an input of both axes is called."""

import pytest

from cab import Pattern
from cab.contracts.reads import Input, resolve_inputs, resolve_reads

READS = (("qkv", {"mixture": True}), ("qv", {"kind": ("dense", "wide")}), "v")
INPUTS = {
    "y": ("keys", "real", "width"),
    "depth": ("queries", "index", 8, {"gate": "depth", "bias": (True, None)}),
    "segment": ("both", "sorted"),
}


@pytest.mark.parametrize(
    ("params", "reads"),
    [({"mixture": True, "kind": "dense"}, "qkv"), ({"mixture": False, "kind": "wide"}, "qv"), ({"kind": "x"}, "v")],
)
def test_the_first_entry_that_fits_says_what_is_read(params: dict[str, object], reads: str) -> None:
    assert resolve_reads(READS, params) == reads


def test_without_a_last_entry_that_always_holds_some_hyperparameters_read_nothing_known() -> None:
    with pytest.raises(ValueError, match="no entry of"):
        resolve_reads(READS[:2], {"kind": "x"})


def test_all_conditions_of_an_input_must_hold() -> None:
    assert set(resolve_inputs(INPUTS, {"gate": "depth", "bias": None}, Pattern.NS)) == {"y", "depth", "segment"}
    assert set(resolve_inputs(INPUTS, {"gate": "depth", "bias": False}, Pattern.NS)) == {"y", "segment"}


@pytest.mark.parametrize(("kind", "read"), [("a", False), ("b", False), ("c", True), (None, True)])
def test_a_condition_may_say_which_values_do_not_hold(kind: str | None, read: bool) -> None:
    declared = {"x": ("queries", "real", "width", {"kind": {"not": ["a", "b"]}})}
    assert bool(resolve_inputs(declared, {"kind": kind}, Pattern.NS)) is read
    assert resolve_reads((("v", {"kind": {"not": None}}), "qkv"), {"kind": kind}) == ("qkv" if kind is None else "v")


def test_an_input_of_both_axes_is_one_in_self_patterns_and_two_in_cross_patterns() -> None:
    assert resolve_inputs({"segment": INPUTS["segment"]}, {}, Pattern.CS) == {"segment": Input("queries", "sorted")}
    assert resolve_inputs({"segment": INPUTS["segment"]}, {}, Pattern.CC) == {
        "segment": Input("queries", "sorted"),
        "source_segment": Input("keys", "sorted"),
    }


def test_a_card_that_went_through_json_means_the_same() -> None:
    import json

    through = json.loads(json.dumps([READS, INPUTS]))
    assert resolve_reads(through[0], {"kind": "wide"}) == "qv"
    params = {"gate": "depth", "bias": True}
    assert resolve_inputs(through[1], params, Pattern.NC) == resolve_inputs(INPUTS, params, Pattern.NC)
