"""CAB's masked language modelling: which bytes are covered, what is scored, floors, sizes."""

import inspect
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import imdb
from cab.plugins import registry

CabMLM: Any = registry.load("task", "cab_mlm")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "cab_mlm.yaml"
REVIEWS = [(bytes((i * j + j * j) % 251 for j in range(600)), 0) for i in range(200)]


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(imdb, "package_file", lambda: tmp_path)
    monkeypatch.setattr(imdb, "read_package", lambda file: REVIEWS)
    return build_task(tmp_path)


def build_task(folder: Path, **changes: Any) -> Any:
    task = CabMLM(**{"seq_len": 128, "heads": 2, "dim": 8, "mlp": 16, **changes})
    assert isinstance(task.source(folder), Source)
    return task


def texts(task: Any, count: int = 60) -> list[Any]:
    windows = task.split("train", 0)
    return [windows[i] for i in range(count)]


def test_what_is_not_covered_stays_and_has_no_label(task: Any) -> None:
    examples = texts(task)
    b = task.collate(examples)
    for text, x, target in zip(examples, b.x.tolist(), b.target.tolist(), strict=True):
        for byte, token, label in zip(text.tolist(), x, target, strict=True):
            assert label in (-100, byte)
            assert label == byte or token == byte + 1


def test_covered_bytes_are_a_share_and_so_are_those_of_them_that_are_hidden(tmp_path: Path, task: Any) -> None:
    whole = task.collate(texts(task))
    assert torch.equal(whole.x == 0, whole.target != -100)
    task = build_task(tmp_path, hidden=0.8)
    b = task.collate(texts(task, 200))
    covered = b.target != -100
    number = covered.sum().item()
    assert covered.float().mean().item() == pytest.approx(0.15, abs=5 * (0.15 * 0.85 / covered.numel()) ** 0.5)
    hidden, stays = (b.x == 0) & covered, (b.x == b.target + 1) & covered
    tolerance = 5 * (0.25 / number) ** 0.5
    assert hidden.sum().item() / number == pytest.approx(0.8, abs=tolerance)
    assert stays.sum().item() / number == pytest.approx(0.1 + 0.1 / 256, abs=tolerance)
    assert not ((b.x == 0) & ~covered).any()
    random = b.x[covered & ~hidden & ~stays]
    assert len(random.unique()) > 100 and random.min() >= 1 and random.max() <= 256


def test_which_bytes_are_covered_is_the_windows_own(task: Any) -> None:
    examples = texts(task, 8)
    whole = task.collate(examples)
    for i in (5, 0):
        alone = task.collate(examples[i : i + 1])
        assert torch.equal(alone.x[0], whole.x[i]) and torch.equal(alone.target[0], whole.target[i])
    assert not torch.equal(whole.target[0] == -100, whole.target[1] == -100)


def test_no_window_is_without_a_covered_byte(task: Any, tmp_path: Path) -> None:
    rarely = build_task(tmp_path, covered=1e-6)
    assert (rarely.collate(texts(rarely)).target != -100).sum(1).tolist() == [1] * 60


def test_the_covered_bytes_alone_are_scored(task: Any) -> None:
    b = task.collate(texts(task, 4))
    covered = b.target != -100
    wrong = b.target.clone()

    def model(x: Any, *rest: Any) -> Any:
        return torch.nn.functional.one_hot(torch.where(covered, wrong, 0), 256).double() * 50

    assert task.score(model, b)["accuracy"].tolist() == [[n, n] for n in covered.sum(1).tolist()]
    assert task.loss(model, b) < 1e-6 and task.score(model, b)["nll"][:, 0].max() < 1e-6
    first = int(covered[0].int().argmax())
    wrong[0, first] = (wrong[0, first] + 1) % 256
    scores = task.score(model, b)
    assert (scores["accuracy"][:, 1] - scores["accuracy"][:, 0]).tolist() == [1, 0, 0, 0]
    assert scores["nll"][:, 0].tolist() == pytest.approx([50, 0, 0, 0], abs=1e-5)
    assert scores["nll"][:, 1].tolist() == covered.sum(1).tolist()


def test_floors_predict_each_byte_by_its_frequency_in_training(task: Any) -> None:
    train, test = (
        np.concatenate([task.split(name, 0)[i] for i in range(len(task.split(name, 0)))]) for name in ("train", "test")
    )
    counts = np.bincount(train, minlength=256) + 1.0
    floor = task.floors()["byte frequencies"]
    assert floor["nll"] == pytest.approx(-np.log(counts / counts.sum())[test].mean())
    assert floor["accuracy"] == pytest.approx((test == counts.argmax()).mean())
    assert floor["nll"] <= log(256) + 0.1


def test_every_slot_is_under_test(task: Any) -> None:
    attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")
    model = task.model(attention)
    assert [(m.slot.pattern.value, m.slot.layer, m.slot.max_len) for m in attention.built] == [
        ("NS", 0, 128),
        ("NS", 1, 128),
    ]
    task.loss(model, task.collate(texts(task))).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_the_paper_scale_has_robertas_blocks() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    paper = node["scales"]["paper"]
    with torch.device("meta"):
        task = CabMLM(seq_len=paper["seq_len"], heads=paper["heads"], dim=paper["dim"], **paper["task"])
        model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS"))
    width = 768
    attention, feed_forward, norms = 4 * width**2, 2 * width * 3072 + 3072 + width, 4 * width
    biases = 4 * width  # of q, k, v and o
    counts = {name: p.numel() for name, p in model.named_parameters()}
    blocks = sum(count for name, count in counts.items() if ".blocks." in name)
    assert blocks in (12 * (attention + feed_forward + norms), 12 * (attention + biases + feed_forward + norms))
    assert sum(counts.values()) == blocks + (257 + 2048) * width  # bytes and positions


@pytest.mark.parametrize("hidden", [-0.1, 1.1])
def test_a_share_of_the_covered_bytes_is_from_0_to_1(hidden: float) -> None:
    with pytest.raises(ValueError, match=f"hidden={hidden}: a share of the covered bytes, from 0 to 1"):
        CabMLM(seq_len=16, hidden=hidden)


@pytest.mark.parametrize("covered", [0.0, 1.0, -0.1])
def test_a_share_that_covers_nothing_or_everything_is_refused(covered: float) -> None:
    with pytest.raises(ValueError, match=f"covered={covered}: a share of the bytes, above 0 and below 1"):
        CabMLM(seq_len=16, covered=covered)


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    signature = inspect.signature(CabMLM.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own
    for scale in node["scales"].values():
        Recipe.of(scale["training"])
