"""Rasters on the command line: words and lengths, which mechanisms take them, and what is part of a case's id."""

import pytest

from cab.errors import UsageError
from cab.planning.plan import plan
from cab.planning.rasters import resolved

SPEED = ["task=speed", "meters=[flops]"]


def settings(*overrides: str) -> dict[str, object]:
    return plan([*SPEED, "mechanism=softmax", *overrides]).cases[0].settings


def test_a_word_survives_a_sweep_of_lengths_and_lengths_multiply_to_the_tokens() -> None:
    cases = plan([*SPEED, "mechanism=softmax", "raster=square", "seq_len=256,1024"]).cases
    assert [case.settings["raster"] for case in cases] == [[16, 16], [32, 32]]
    assert settings("raster=cube", "seq_len=512") == {"raster": [8, 8, 8]}
    assert settings("raster=[16,32]", "seq_len=512") == {"raster": [16, 32]}


def test_a_sequence_has_the_id_that_it_had_before_there_were_rasters() -> None:
    assert settings() == {} and settings("pattern=NC") == {}


def test_in_cross_patterns_the_source_has_the_same_kind_of_raster_unless_it_is_said() -> None:
    cross = ("pattern=NC", "seq_len=256", "source_len=1024", "raster=square")
    assert settings(*cross) == {"raster": [16, 16], "source_raster": [32, 32]}
    assert settings(*cross, "source_raster=null") == {"raster": [16, 16]}
    assert settings(*cross, "source_raster=[8,128]") == {"raster": [16, 16], "source_raster": [8, 128]}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["raster=square", "seq_len=200"], "raster=square: 200 tokens are no square"),
        (["raster=[3,5]", "seq_len=16"], r"3 x 5 = 15 tokens, not 16"),
        (["raster=round"], r"raster=round: give null, square, cube, or the lengths"),
        (["raster=[16]"], "the lengths of two or three axes"),
        (["raster=[0,16]"], "the lengths of two or three axes"),
        (["raster=same"], "raster=same: give null"),
        (["pass=decode", "pattern=CS", "raster=square", "seq_len=256"], "the tokens to come have no place on it"),
    ],
)
def test_a_raster_that_does_not_fit_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan([*SPEED, "mechanism=softmax", *overrides])


def test_the_sides_of_a_square_are_exact_for_long_sequences() -> None:
    assert resolved("raster", "square", 1023**2) == [1023, 1023]
    assert resolved("raster", "cube", 101**3) == [101, 101, 101]


def test_what_takes_images_alone_refuses_a_sequence(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image.py").write_text(
        "from cab import Mechanism\n\n\nclass Image(Mechanism):\n"
        "    patterns = {'NS': 'native'}\n    rasters = (2,)\n\n"
        "    def attend(self, q, k, v, key_mask=None, query_mask=None):\n        return v\n"
    )
    monkeypatch.chdir(tmp_path)
    asked = [*SPEED, "mechanism=./image.py:Image", "seq_len=256"]
    with pytest.raises(UsageError, match="takes rasters of 2 axes, not sequences: raster=square, say"):
        plan(asked)
    assert plan([*asked, "raster=square"]).measurements[0].refusal is None
