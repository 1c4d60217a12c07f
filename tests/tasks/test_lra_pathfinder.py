"""LRA Pathfinder and Path-X: their sources, tokens, floors and scales."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import pathfinder_files
from cab.errors import UsageError
from cab.plugins import registry

NAMES = ("lra_pathfinder", "lra_pathx")
ROOT = Path(__file__).parents[2]


def task_class(name: str) -> Any:
    return registry.load("task", name)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    pathfinder_files.write(folder, 32, "hard", 1_100, 7)
    return folder


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three batches of four images."""
    monkeypatch.setattr(pathfinder_files, "BATCH", 4)
    return pathfinder_files.write(tmp_path, 32, "hard", 12, 0)


def test_what_is_written_is_read_in_its_order(written: Path) -> None:
    task = task_class("lra_pathfinder")(seq_len=1024)
    source = task.source(written)
    assert source.counts == {"train": 880, "validation": 110, "test": 110} and not source.comparable
    assert source.name == "pathfinder32 hard, generated with seed 7"
    generated = task_class("lra_pathfinder")(seq_len=1024, images=1_100, data_seed=7)
    assert generated.source(written / "nowhere").counts == source.counts
    for name in source.counts:
        for i in (0, 57, 109):
            (a, label), (b, other) = task.split(name, 0)[i], generated.split(name, 5)[i]
            assert (a == b).all() and label == other
        assert (task.split(name, 0).labels() == generated.split(name, 0).labels()).all()


@pytest.mark.parametrize("name", NAMES)
def test_fetch_draws_the_published_size_whatever_the_scale(name: str, tmp_path: Path) -> None:
    task_class(name)(seq_len=4096).fetch(tmp_path, images=10)
    size = {"lra_pathfinder": 32, "lra_pathx": 128}[name]
    assert pathfinder_files.find(tmp_path, size, "hard") is not None
    source = task_class(name)(seq_len=size**2).source(tmp_path)
    assert isinstance(source, Source) and source.counts == {"train": 8, "validation": 1, "test": 1}


def test_only_the_whole_release_is_comparable(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tree.parent.parent
    monkeypatch.setattr(pathfinder_files, "OFFICIAL", 12)
    assert not task_class("lra_pathfinder")(seq_len=1024).source(folder).comparable
    (tree / pathfinder_files.MARKER).unlink()
    assert task_class("lra_pathfinder")(seq_len=1024).source(folder).comparable
    monkeypatch.setattr(pathfinder_files, "OFFICIAL", 14)
    assert not task_class("lra_pathfinder")(seq_len=1024).source(folder).comparable


@pytest.mark.parametrize("name", NAMES)
def test_wrong_hyper_parameters_are_refused(name: str) -> None:
    make = task_class(name)
    with pytest.raises(ValueError, match="images have 1024, 4096, 16384, 65536 tokens"):
        make(seq_len=1000)
    with pytest.raises(ValueError, match="images have 1025, "):
        make(seq_len=1024, pooling="cls")
    for wrong in ({"difficulty": "harder"}, {"protocol": "LRA"}, {"pooling": "first"}):
        with pytest.raises(UsageError, match="unknown"):
            make(seq_len=1024, **wrong)
    with pytest.raises(ValueError, match="images=9"):
        make(seq_len=1024, images=9)
    with pytest.raises(UsageError, match=r"Call source\(folder\) first"):
        make(seq_len=1024).split("train", 0)


def logits(protocol: str, black: int) -> torch.Tensor:
    task = task_class("lra_pathfinder")(seq_len=1024, protocol=protocol, positions="none")
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")).double().eval()
    torch.random.set_rng_state(state)
    pixels = np.full(1024, 9, np.uint8)
    pixels[:black] = 0
    batch = task.collate([(pixels, 1)])
    assert (batch.x_mask is None) == (protocol == "clean") and batch.x[0].tolist() == pixels.tolist()
    return model(batch.x, batch.x_mask)


def test_black_pixels_are_hidden_but_pooled_in_the_protocol_of_the_release_alone() -> None:
    torch.testing.assert_close(logits("clean", 0), logits("lra", 0))
    assert not torch.allclose(logits("clean", 500), logits("lra", 500))
    # hidden black pixels cannot be told from one another's number except through the pooling
    assert not torch.allclose(logits("lra", 500), logits("lra", 600))


@pytest.mark.parametrize("name", NAMES)
def test_floors_are_chance_and_the_majority(name: str, tmp_path: Path) -> None:
    task = task_class(name)(seq_len=1024, images=3_000)
    task.source(tmp_path)
    train, test = task.split("train", 0).labels(), task.split("test", 0).labels()
    share = test.mean() if train.mean() > 0.5 else 1 - test.mean()
    assert task.floors() == {"chance": {"accuracy": 0.5}, "majority class": {"accuracy": float(share)}}


def node_of(name: str) -> Any:
    return OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "task" / f"{name}.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_has_every_hyper_parameter_with_its_default(name: str) -> None:
    signature = inspect.signature(task_class(name).__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node_of(name).items() if k not in ("name", "case", "scales")} == own


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_builds_a_model_and_a_recipe(name: str, scale: str) -> None:
    node = node_of(name)
    layers = {**node["case"], **node["scales"][scale]}
    params = {k: v for k, v in node.items() if k not in ("name", "case", "scales")} | layers.get("task", {})
    task = task_class(name)(seq_len=layers["seq_len"], heads=layers["heads"], dim=layers["dim"], **params)
    attention = LayerBuilder(registry.load("mechanism", "none"), {}, "NS")
    model = task.model(attention)
    assert {m.slot.max_len for m in attention.built} == {layers["seq_len"]}
    training = Recipe.of(layers["training"])
    if scale == "paper":
        assert model.encoder.width == 32 and task.sizes["heads"] * task.sizes["dim"] == 16
        assert training.rate(training.warmup - 1) == 1e-3
        assert training.steps == {"lra_pathfinder": 62_400, "lra_pathx": 500_000}[name]
    if scale != "quick":
        assert task.size == {"lra_pathfinder": 32, "lra_pathx": 128}[name]
