"""moving_dots: labels are the directions, ids say what they name, and shuffled frames leave no trace of a direction."""

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.planning.plan import plan
from cab.plugins import registry

ROOT = Path(__file__).parents[2]
FRAMES, HEIGHT, WIDTH, DOTS = 3, 4, 5, 2
SMALL: dict[str, Any] = {"seq_len": FRAMES * HEIGHT * WIDTH, "frames": FRAMES, "height": HEIGHT, "dots": DOTS}


def build_task(**changes: Any) -> Any:
    return registry.load("task", "moving_dots")(**{**SMALL, **changes})


def batch(task: Any, count: int = 200) -> Any:
    examples = task.split("test", 0)
    return task.collate([examples[i] for i in range(count)])


def tracks(b: Any) -> list[tuple[list[tuple[int, ...]], int]]:
    """Return (frame, row, column) of each dot in the frames' order, and its label in the last one, from x alone."""
    found = []
    for ids, labels in zip(b.x.reshape(len(b.x), -1, 4).tolist(), b.target.tolist(), strict=True):
        for dot in range(1, DOTS + 1):
            tokens = [i for i, (what, *_) in enumerate(ids) if what == dot]
            offsets = 1 + DOTS, 1 + DOTS + FRAMES, 1 + DOTS + FRAMES + HEIGHT
            path = [tuple(field - first for field, first in zip(ids[i][1:], offsets, strict=True)) for i in tokens]
            assert [labels[i] for i in tokens[:-1]] == [-100] * (FRAMES - 1)
            found.append((path, labels[tokens[-1]]))
        assert sum(label != -100 for label in labels) == DOTS
    return found


def test_a_dot_moves_one_column_a_frame_in_the_direction_of_its_label() -> None:
    for path, label in tracks(batch(build_task())):
        (_, row, start), step = path[0], 2 * label - 1
        assert path == [(frame, row, (start + step * frame) % WIDTH) for frame in range(FRAMES)]


def test_shuffled_frames_are_as_likely_for_either_direction() -> None:
    seen: dict[int, Counter[tuple[int, ...]]] = {0: Counter(), 1: Counter()}
    for path, label in tracks(batch(build_task(shuffle=True), 2000)):
        columns = [column for _, _, column in path]
        seen[label][tuple((column - columns[-1]) % WIDTH for column in columns)] += 1
    assert set(seen[0]) == set(seen[1]) and len(seen[0]) > FRAMES
    for columns, count in seen[0].items():
        assert abs(count - seen[1][columns]) < 5 * (count + seen[1][columns]) ** 0.5


def test_one_frame_says_nothing() -> None:
    for frame in range(FRAMES):
        counts = Counter((path[frame][2], label) for path, label in tracks(batch(build_task(), 2000)))
        expected = 2000 * DOTS / (2 * WIDTH)
        assert len(counts) == 2 * WIDTH
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_a_batch_offers_the_ids_that_masks_compare() -> None:
    b = batch(build_task(), 3)
    places = [(f, r, c) for f in range(FRAMES) for r in range(HEIGHT) for c in range(WIDTH)]
    for example in range(3):
        ids = {name: t[example].tolist() for name, t in b.inputs.items()}
        assert ids["frame"] == [f for f, _, _ in places] and ids["channel"] == [r for _, r, _ in places]
        assert ids["cell"] == [WIDTH * r + c for _, r, c in places] and ids["group"] == [r // 2 for _, r, _ in places]
        assert ids["modality"] == [2 if f == FRAMES - 1 else 1 for f, _, _ in places]
        assert ids["subject"] == b.x[example, :, 0].tolist()
        together = dict(zip(ids["component"], zip(ids["frame"], ids["subject"], strict=True), strict=True))
        assert [together[i] for i in ids["component"]] == list(zip(ids["frame"], ids["subject"], strict=True))
        assert len(set(together.values())) == len(together) == FRAMES * (1 + DOTS)


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_every_parameter_learns_and_the_slots_know_the_raster(pattern: str) -> None:
    task = build_task(pattern=pattern)
    layers = LayerBuilder(registry.load("mechanism", "swin"), {}, pattern)
    net = task.model(layers)
    assert {m.slot.pattern.value for m in layers.built} == {pattern} and len(layers.built) == 2
    assert {m.slot.raster for m in layers.built} == {(FRAMES, HEIGHT, WIDTH)}
    net = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern))
    b = batch(task, 50)
    task.loss(net, b).backward()
    assert not [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert task.score(net, b)["accuracy"][:, 1].tolist() == [DOTS] * 50


def test_masks_that_compare_ids_can_be_trained_on_it() -> None:
    masks = ["mechanism=masked", "mechanism.mask=groups,frame_causal,modality_mutual"]
    measurements = plan(["task=moving_dots", *masks, "meters=[quality]", "pattern=NS,CS"]).measurements
    assert len(measurements) == 6 and not any(measurement.refusal for measurement in measurements)


def test_an_example_is_its_number_alone() -> None:
    task = build_task(shuffle=True)
    examples = task.split("train", 3)
    together, alone = task.collate([examples[i] for i in (5, 0, 9)]), task.collate([examples[0]])
    assert torch.equal(together.x[1], alone.x[0]) and torch.equal(together.target[1], alone.target[0])


def test_the_floor_is_a_guess_between_two_directions() -> None:
    labels = [label for _, label in tracks(batch(build_task(), 2000))]
    assert build_task().floors() == {"chance": {"accuracy": 0.5}}
    assert abs(sum(labels) / len(labels) - 0.5) < 0.04


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 61}, "seq_len must be a multiple"),
        ({"seq_len": 24}, "at least three times"),
        ({"frames": 1}, "at least 2 frames"),
        ({"dots": 5}, "dots=5: from 1 to height=4"),
    ],
)
def test_hyper_parameters_that_fit_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_task(**changes)


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "task" / "moving_dots.yaml"))
    signature = inspect.signature(registry.load("task", "moving_dots").__init__).parameters
    passed = ("self", "seq_len", "source_len", "heads", "dim", "pattern")
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == {
        name: p.default for name, p in signature.items() if name not in passed
    }
    for scale in node["scales"].values():
        Recipe.of(scale["training"])
