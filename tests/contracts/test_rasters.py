"""Which layouts of queries and keys a card takes."""

import json

import pytest

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.attention.build import build_mechanism
from cab.conformance import check, check_card
from cab.contracts.rasters import describe, layouts
from cab.ops.softmax import softmax_attention


def test_in_cross_patterns_both_sides_have_as_many_axes_unless_the_source_is_declared() -> None:
    assert layouts((1, 2), None, Pattern.NC) == ((1, 1), (2, 2))
    assert layouts((1, 2), (2,), Pattern.NC) == ((1, 2), (2, 2))
    assert layouts((1, 2), (2,), Pattern.NS) == ((1, 1), (2, 2))


def test_a_pattern_that_is_left_out_has_sequences() -> None:
    assert layouts({"NS": [1, 3]}, None, Pattern.NS) == ((1, 1), (3, 3))
    assert layouts({"NS": [1, 3]}, None, Pattern.CS) == ((1, 1),)


def test_layouts_are_named_in_words() -> None:
    assert describe([(1, 1), (2, 2)]) == "sequences or rasters of 2 axes"
    assert describe([(1, 2)]) == "sequences that read rasters of 2 axes"


CONDITIONAL = (({"NS": (2,)}, {"form": "image"}), ((1, 2), {"form": {"not": "plain"}}), (1,))


@pytest.mark.parametrize(
    ("form", "axes"),
    [("image", ((2, 2),)), ("both", ((1, 1), (2, 2))), ("plain", ((1, 1),)), ("other", ((1, 1), (2, 2)))],
)
def test_the_first_entry_whose_condition_holds_says_which_rasters_are_taken(form: str, axes: object) -> None:
    for declared in (CONDITIONAL, json.loads(json.dumps(CONDITIONAL))):
        assert layouts(declared, None, Pattern.NS, {"form": form}) == axes


class Choosy(Mechanism):
    patterns = {"NS": "native"}
    rasters = CONDITIONAL
    checks = ({"form": "image"}, {"form": "both"}, {})

    def __init__(self, slot, *, form: str = "plain"):
        super().__init__(slot)
        assert form == "plain" or slot.raster is None or len(slot.raster) == 2

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return softmax_attention(q, k, v, None if key_mask is None else key_mask[:, None, None])

    reference = attend

    def flops(self, n, m, backend="eager"):
        return 2.0 * self.slot.heads * n * m * (self.slot.dim + self.slot.values)


def test_rasters_that_depend_on_hyperparameters_are_refused_before_the_constructor_and_run_under_the_laws() -> None:
    Choosy(slot(raster=(2, 3)), form="image")
    with pytest.raises(Unsupported, match="Choosy takes rasters of 2 axes in NS, not a sequence"):
        Choosy(slot(), form="image")
    with pytest.raises(Unsupported, match="Choosy takes sequences in NS, not a raster of 2 x 3"):
        Choosy(slot(raster=(2, 3)))
    assert build_mechanism(Choosy, {}, slot(raster=(2, 3))).slot.raster is None
    assert build_mechanism(Choosy, {"form": "both"}, slot(raster=(2, 3))).slot.raster == (2, 3)
    verdicts = check(Choosy, laws=["definition", "defaults", "holes", "flops"])
    assert {v.status for v in verdicts} == {"pass"}
    assert {(v.params["form"], v.setting) for v in verdicts if v.law == "definition" and v.params} == {
        ("image", "raster 6x7"),
        ("both", "sequence"),
        ("both", "raster 6x7"),
    }


def test_the_card_needs_an_entry_for_the_other_hyperparameters() -> None:
    class Never(Choosy):
        rasters = (((2,), {"form": "image"}),)

    class Unknown(Choosy):
        rasters = (((2,), {"shape": "image"}), (1,))

    for cls, message in ((Never, "the last entry has a condition"), (Unknown, "'shape', which is no hyper-parameter")):
        assert message in check_card(cls).reason


class Image(Mechanism):
    patterns = {"NS": "native", "NC": "native"}
    rasters = (2,)


class Sequence(Mechanism):
    patterns = {"NS": "native", "NC": "native"}


def slot(pattern: str = "NS", **changes) -> Slot:
    return Slot(Pattern.of(pattern), heads=2, dim=4, max_len=6, **changes)


def test_what_takes_images_alone_refuses_a_sequence_and_a_raster_on_one_side() -> None:
    Image(slot(raster=(2, 3)))
    with pytest.raises(Unsupported, match="Image takes rasters of 2 axes in NS, not a sequence"):
        Image(slot())
    with pytest.raises(Unsupported, match="not a raster of 2 x 3 that reads a sequence"):
        Image(slot("NC", raster=(2, 3)))


def test_what_takes_sequences_gets_a_raster_as_a_sequence_from_the_harness_alone() -> None:
    assert build_mechanism(Sequence, {}, slot(raster=(2, 3))).slot.raster is None
    assert build_mechanism(Image, {}, slot(raster=(2, 3))).slot.raster == (2, 3)
    with pytest.raises(Unsupported, match="Sequence takes sequences in NS, not a raster of 2 x 3"):
        Sequence(slot(raster=(2, 3)))
