"""`cab plot mask`: every mask of the catalogue, and on a raster one query's map on the raster of the keys."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from cab.attention.attention_map import AttentionMap
from cab.commands.plot import DARK_BLUE, ORANGE, WHITE, centre, key_raster, one_query, plot_masks
from cab.ops.masks import CATALOGUE
from cab.planning.plan import plan


def case(*overrides: str):
    return plan(["mechanism=softmax", "task=speed", "meters=[flops]", *overrides]).cases[0]


def test_the_raster_of_the_keys_is_the_sources_in_cross_patterns() -> None:
    assert key_raster(case("seq_len=64")) is None
    assert key_raster(case("seq_len=64", "raster=square")) == (8, 8)
    assert key_raster(case("seq_len=64", "pattern=NC", "source_len=16", "raster=square")) == (4, 4)
    assert key_raster(case("seq_len=64", "pattern=NC", "source_raster=[2,32]")) == (2, 32)


def test_the_query_in_the_middle_is_named_by_its_place() -> None:
    assert centre(case("seq_len=64", "raster=square")) == (36, "query at 4, 4")
    assert centre(case("seq_len=64", "raster=cube")) == (42, "query at 2, 2, 2")
    assert centre(case("seq_len=64", "pattern=NC", "source_raster=square")) == (32, "query 32")


def test_a_key_is_drawn_at_its_place() -> None:
    weights = torch.zeros(1, 6, 6)
    weights[0, 2, 4] = 1.0  # row 1, column 1 of 2 x 3
    sheet = one_query(AttentionMap(weights, True), (2, 3), 2, "query 2")
    dark = [(x, y) for x in range(sheet.width) for y in range(sheet.height) if sheet.getpixel((x, y)) == DARK_BLUE]
    xs, ys = sorted({x for x, _ in dark}), sorted({y for _, y in dark})
    side = len(xs)
    assert len(dark) == side * side and len(ys) == side
    left, top = xs[0] - side, ys[0] - side  # of the raster
    assert sheet.getpixel((left, top)) == WHITE and sheet.getpixel((left + 2 * side, top)) == WHITE


def test_what_is_no_number_has_a_colour_of_its_own_and_hides_nothing() -> None:
    weights = torch.zeros(1, 4, 4)
    weights[0, 1, 0], weights[0, 1, 1], weights[0, 1, 2] = float("nan"), float("inf"), 2.0
    sheet = one_query(AttentionMap(weights, True), (2, 2), 1, "query 1")
    colours = {sheet.getpixel((x, y)) for x in range(sheet.width) for y in range(sheet.height)}
    assert {ORANGE, DARK_BLUE, WHITE} <= colours


def test_the_planes_of_a_volume_lie_side_by_side() -> None:
    weights = torch.ones(1, 8, 8)
    wide = one_query(AttentionMap(weights, True), (2, 2, 2), 0, "query 0")
    square = one_query(AttentionMap(weights[:, :4, :4], True), (2, 2), 0, "query 0")
    assert wide.width / wide.height > square.width / square.height


@pytest.mark.parametrize("mask", CATALOGUE)
def test_every_mask_of_the_catalogue_is_drawn(mask: str, tmp_path: Path) -> None:
    sizes = ["mechanism.window=4", "mechanism.frame_size=4", "heads=2", "dim=4", "seq_len=16"]
    plot_masks(["mechanism=masked", f"mechanism.mask={mask}", *sizes], tmp_path, Console(file=io.StringIO()))
    (picture,) = tmp_path.glob("*.png")
    with Image.open(picture) as image:
        assert min(image.size) > 100


def test_two_classes_of_one_file_have_two_pictures(elsewhere: Path) -> None:
    attend = "    def attend(self, q, k, v, key_mask=None, query_mask=None):\n        return v\n"
    body = f"    patterns = {{'NS': 'native'}}\n{attend}"
    classes = "".join(f"\n\nclass {name}(Mechanism):\n{body}" for name in ("First", "Second"))
    (elsewhere / "mine.py").write_text(f"from cab import Mechanism{classes}")
    for name in ("First", "Second"):
        plot_masks([f"mechanism=./mine.py:{name}", "seq_len=8"], elsewhere / "out", Console(file=io.StringIO()))
    assert {path.name for path in (elsewhere / "out").glob("*.png")} == {
        "mask-mine-First-NS.png", "mask-mine-Second-NS.png",
    }  # fmt: skip
