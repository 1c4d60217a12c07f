"""A native pattern is graded as ours on other rasters and with other hyper-parameters, where the card says so."""

from typing import Any

import pytest

from cab import Mechanism, Pattern, Slot
from cab.contracts.grades import is_ours
from cab.plugins import registry


class Graded(Mechanism):
    patterns = {"NS": "native", "CS": "native", "NC": "extension"}
    rasters = {"NS": (1, 2)}
    ours = ({"axes": (1,), "patterns": ["NS"]}, {"page": {"not": 1}})

    def __init__(self, slot: Slot, *, page: int = 1) -> None:
        super().__init__(slot)


@pytest.mark.parametrize(
    ("pattern", "raster", "params", "grade"),
    [
        ("NS", (3, 4), {}, "native"),
        ("NS", None, {}, "extension"),
        ("CS", None, {}, "native"),
        ("CS", None, {"page": 2}, "extension"),
        ("NC", None, {"page": 2}, "extension"),
    ],
)
def test_the_grade_follows_rasters_and_hyperparameters(pattern: str, raster: Any, params: Any, grade: str) -> None:
    slot = Slot(Pattern.of(pattern), heads=2, dim=4, max_len=12, raster=raster)
    assert Graded(slot, **params).grade == grade


@pytest.mark.parametrize(
    ("name", "pattern", "sizes", "grade"),
    [
        ("deformable", "NC", {"source_raster": (3, 4)}, "native"),  # as in the paper: queries of no image read one
        ("deformable", "NC", {}, "extension"),
        ("gated_deltanet", "CS", {}, "native"),
        ("gated_deltanet", "CS", {"rotary": 100.0}, "extension"),
        ("cosformer", "NC", {"rotary": 100.0}, "native"),  # nothing turns in a cross pattern
        ("softmax", "CS", {"rotary": 100.0}, "native"),
    ],
)
def test_the_grade_follows_the_source_and_rotary_positions(name: str, pattern: str, sizes: Any, grade: str) -> None:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=12, **sizes)
    assert registry.load("mechanism", name)(slot).grade == grade


def test_an_entry_that_names_no_hyperparameter_is_an_error() -> None:
    with pytest.raises(ValueError, match="names pages, which is no hyper-parameter"):
        is_ours(({"pages": 1},), {"page": 1}, Slot(Pattern.NS, heads=2, dim=4, max_len=12))


def test_cards_of_the_project_lower_what_their_docstrings_call_ours() -> None:
    slot = Slot(Pattern.NS, heads=2, dim=4, max_len=16)
    image = Slot(Pattern.NS, heads=2, dim=4, max_len=16, raster=(4, 4))
    for name in ("hilo", "oca", "gpsa", "super_token", "swin"):
        cls = registry.load("mechanism", name)
        assert (cls(slot).grade, cls(image).grade) == ("extension", "native"), name
