"""Diagnostics of one ability each: labels are exact, chance is as stated, and the YAML has every hyper-parameter."""

import inspect
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from cab import Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.plugins import registry

ROOT = Path(__file__).parents[2]
PATTERNS = {"selective_copy": "CS", "noisy_recall": "CS", "parity": "CS", "distant_cue": "NS"}
SMALL: dict[str, dict[str, Any]] = {
    "selective_copy": {"seq_len": 24, "copied": 6, "symbols": 5},
    "noisy_recall": {"seq_len": 40, "keys": 4, "values": 6, "noise": 0.3, "distractors": 3},
    "parity": {"seq_len": 20, "modulus": 3},
    "distant_cue": {"seq_len": 30, "distance": 21, "cues": 4, "noise": 5},
}


def build_task(name: str, **changes: Any) -> Any:
    return registry.load("task", name)(**{**SMALL[name], **changes})


def batch(task: Any, count: int = 200) -> Any:
    examples = task.split("test", 0)
    return task.collate([examples[i] for i in range(count)])


# Labels, computed again from the tokens alone.


def test_selective_copy_asks_for_the_tokens_in_their_order() -> None:
    b = batch(build_task("selective_copy"))
    for ids, labels in zip(b.x.tolist(), b.target.tolist(), strict=True):
        tokens = [i - 2 for i in ids[:18] if i]
        assert ids[18:] == [1] * 6 and len(tokens) == 6 and 1 not in ids[:18]
        assert labels == [-100] * 18 + tokens


def test_noisy_recall_asks_at_every_key_that_was_seen() -> None:
    b = batch(build_task("noisy_recall"))
    noisy = 0
    for ids, labels in zip(b.x.tolist(), b.target.tolist(), strict=True):
        value_of: dict[int, int] = {}
        for (key, value), (label, nothing) in zip(
            zip(ids[::2], ids[1::2], strict=True), zip(labels[::2], labels[1::2], strict=True), strict=True
        ):
            assert nothing == -100 and (key >= 10) == (value >= 10)
            assert label == (-100 if key >= 10 else value_of.get(key, -100))
            noisy += key >= 10
            if key < 10:
                assert value_of.setdefault(key, value - 4) == value - 4
    assert noisy / (200 * 20) == pytest.approx(0.3, abs=0.04)


def test_parity_adds_up_all_digits_and_asks_in_the_second_half() -> None:
    b = batch(build_task("parity"))
    for ids, labels in zip(b.x.tolist(), b.target.tolist(), strict=True):
        assert labels == [-100] * 10 + [sum(ids[: i + 1]) % 3 for i in range(10, 20)]


def test_the_cue_stands_as_far_from_the_question_as_is_said() -> None:
    b = batch(build_task("distant_cue"))
    for ids, labels in zip(b.x.tolist(), b.target.tolist(), strict=True):
        (asked,) = [i for i, token in enumerate(ids) if token == 0]
        (cue,) = [i for i, token in enumerate(ids) if token >= 6]
        assert asked - cue == 21 and labels[asked] == ids[cue] - 6 and labels.count(-100) == 29


def test_windows_that_do_not_reach_the_cue_cannot_see_it() -> None:
    task = build_task("distant_cue")
    b = batch(task, 8)
    window = registry.load("mechanism", "local")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = task.model(LayerBuilder(window, {"window": 8}, "NS")).double().eval()
    positions = (b.x >= 6).int().argmax(1)
    other = b.x.clone()
    other[range(8), positions] = 6 + (b.x[range(8), positions] - 5) % 4
    asked = b.target != -100
    with torch.no_grad():
        assert torch.equal(net(b.x)[asked], net(other)[asked])
        near = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")).double().eval()
        assert not torch.equal(near(b.x)[asked], near(other)[asked])


# Laws of every diagnostic.


@pytest.mark.parametrize("name", PATTERNS)
def test_the_floor_is_a_guess_among_classes_that_are_equally_common(name: str) -> None:
    task = build_task(name)
    labels = batch(task, 2000).target
    counts = torch.bincount(labels[labels != -100], minlength=task.classes).double()
    assert task.floors() == {"chance": {"accuracy": 1 / task.classes}}
    assert len(counts) == task.classes and (counts / counts.sum() - 1 / task.classes).abs().max() < 0.03


@pytest.mark.parametrize("name", PATTERNS)
def test_an_example_is_its_number_alone_and_splits_share_none(name: str, tmp_path: Path) -> None:
    task = build_task(name)
    source = task.source(tmp_path)
    assert isinstance(source, Source) and not source.comparable
    examples = task.split("train", 3)
    together = task.collate([examples[i] for i in (5, 0, 9)])
    alone = task.collate([examples[0]])
    assert torch.equal(together.x[1], alone.x[0]) and torch.equal(together.target[1], alone.target[0])
    numbers = [{task.split(split, 3)[i][0] for i in range(512)} for split in ("train", "validation", "test")]
    assert all(not one & other for one, other in pairwise([*numbers, numbers[0]]))


@pytest.mark.parametrize("name", PATTERNS)
def test_every_parameter_learns_and_every_slot_is_under_test(name: str) -> None:
    task = build_task(name)
    attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, PATTERNS[name])
    net = task.model(attention)
    assert {m.slot.pattern.value for m in attention.built} == {PATTERNS[name]} and len(attention.built) == 2
    b = batch(task)
    task.loss(net, b).backward()
    assert not [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    right, asked = task.score(net, b)["accuracy"].unbind(1)
    assert asked.tolist() == (b.target != -100).sum(1).tolist() and (right <= asked).all()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("selective_copy", {"copied": 13}, "copied=13"),
        ("noisy_recall", {"seq_len": 7}, "seq_len=7"),
        ("noisy_recall", {"noise": 1.0}, "noise=1.0: from 0 to below 1"),
        ("parity", {"modulus": 1}, "modulus=1: at least 2"),
        ("distant_cue", {"distance": 30}, "distance=30: from 1 to below seq_len=30"),
    ],
)
def test_hyper_parameters_that_fit_nothing_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_task(name, **changes)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_yaml_has_every_hyper_parameter_with_its_default(name: str) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "task" / f"{name}.yaml"))
    signature = inspect.signature(registry.load("task", name).__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own
    assert node["case"]["pattern"] == PATTERNS[name]
    for scale in node["scales"].values():
        Recipe.of(scale["training"])
