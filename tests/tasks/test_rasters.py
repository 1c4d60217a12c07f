"""Tasks of images: with `raster` their slots are images, for mechanisms that take images; others see a sequence."""

from typing import Any

import pytest

from cab import Mechanism
from cab.attention.build import LayerBuilder
from cab.errors import UsageError
from cab.planning.plan import plan
from cab.plugins import registry

SIDES = {"lra_image": 32, "lra_pathfinder": 32, "lra_pathx": 128}
IMAGE = """
from cab import Mechanism


class Image(Mechanism):
    patterns = {"NS": "native"}
    rasters = (2,)

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return v
"""


class Both(Mechanism):
    patterns = {"NS": "native"}
    rasters = (1, 2)

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return v


class SequenceOnly(Both):
    rasters = (1,)


def rasters(task: Any, cls: type[Mechanism]) -> set[Any]:
    layers = LayerBuilder(cls, {}, "NS")
    task.model(layers)
    return {mechanism.slot.raster for mechanism in layers.built}


@pytest.mark.parametrize("name", SIDES)
def test_the_slots_of_an_image_have_a_raster_for_what_takes_one(name: str) -> None:
    side = SIDES[name]
    sizes = {"seq_len": side**2, "heads": 1, "dim": 4}
    cls = registry.load("task", name)
    assert rasters(cls(**sizes, raster=True), Both) == {(side, side)}
    assert rasters(cls(**sizes, raster=True), SequenceOnly) == rasters(cls(**sizes), Both) == {None}


def test_a_class_token_has_no_place_on_a_raster() -> None:
    with pytest.raises(ValueError, match="no place for a class token"):
        registry.load("task", "lra_image")(seq_len=1025, pooling="cls", raster=True)


@pytest.fixture
def image(elsewhere: Any) -> str:
    (elsewhere / "image.py").write_text(IMAGE)
    return "mechanism=./image.py:Image"


def test_what_takes_images_alone_needs_the_tasks_raster(image: str) -> None:
    with pytest.raises(UsageError, match="takes rasters of 2 axes, and lra_image gives sequences"):
        plan([image, "task=lra_image"])
    assert plan([image, "task=lra_image", "task.raster=true"]).measurements[0].refusal is None
    with pytest.raises(UsageError, match="takes rasters of 2 axes, and lra_text gives sequences"):
        plan([image, "task=lra_text"])


def test_a_sequence_has_no_holes() -> None:
    asked = ["mechanism=linear", "task=lra_image", "task.raster=true"]
    assert plan(asked).measurements[0].refusal is None
    with pytest.raises(UsageError, match="in lra_image any token of the raster may be masked"):
        plan([*asked, "task.protocol=lra"])
