"""Which layouts of queries and keys a card takes."""

import pytest

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.attention.build import build_mechanism
from cab.contracts.rasters import describe, layouts


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
