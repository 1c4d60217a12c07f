"""LRA Image: the files of CIFAR-10 and Fashion-MNIST, splits, floors and scales."""

import gzip
import hashlib
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import cifar10, fashion_mnist
from cab.errors import UsageError
from cab.plugins import registry

LraImage: Any = registry.load("task", "lra_image")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "lra_image.yaml"
SIZE = 20
COLOURS = np.random.default_rng(0).integers(0, 256, (6 * SIZE, 3, 1024), dtype=np.uint8)
LABELS = np.arange(6 * SIZE) % 10


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "SIZE", SIZE)


def batch_names() -> list[str]:
    return [*cifar10.BATCHES["train"], *cifar10.BATCHES["test"]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Six batches of twenty images, as the release has six of ten thousand."""
    folder = tmp_path / cifar10.TREE
    folder.mkdir()
    for i, name in enumerate(batch_names()):
        part = slice(i * SIZE, (i + 1) * SIZE)
        rows = np.concatenate([LABELS[part, None].astype(np.uint8), COLOURS[part].reshape(SIZE, -1)], 1)
        (folder / name).write_bytes(rows.tobytes())
    return folder


def task_and_source(folder: Path, **changes: Any) -> tuple[Any, Source]:
    task = LraImage(seq_len=1024, **changes)
    source = task.source(folder)
    assert isinstance(source, Source)
    return task, source


# CIFAR-10.


def test_images_come_out_grey_in_the_order_of_the_batches(tree: Path) -> None:
    task, source = task_and_source(tree.parent)
    assert source.name == "CIFAR-10" and source.comparable
    assert source.counts == {"train": 90, "validation": 10, "test": 20}
    number = 0
    for name in ("train", "validation", "test"):
        split = task.split(name, 5)
        for i in range(len(split)):
            pixels, label = split[i]
            assert label == LABELS[number] and (pixels == cifar10.grey(COLOURS[number : number + 1])[0]).all()
            number += 1


def test_missing_batches_are_named(tree: Path) -> None:
    for file in list(tree.glob("data_batch_[24]*")):
        file.unlink()
    for use in (LraImage(seq_len=1024).source, LraImage(seq_len=1024).fetch):
        with pytest.raises(UsageError, match=r"lacks data_batch_2(\.bin)?, data_batch_4(\.bin)?\. Complete it"):
            use(tree.parent)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_batch_is_named(tree: Path, damage: str) -> None:
    file = next(iter(tree.glob("test_batch*")))
    raw = file.read_bytes()
    file.write_bytes({"truncated": raw[:-100], "empty": b"", "text": b"<html>"}[damage])
    with pytest.raises(UsageError, match=r"test_batch(\.bin)? is not a batch of CIFAR-10"):
        LraImage(seq_len=1024).source(tree.parent)


def test_the_pickled_release_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UsageError, match="as pickles, which can run anything and are not read.*brings the binary"):
        LraImage(seq_len=1024).source(tmp_path)


def archived(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the tree into an archive of the released name, whose hash is then the known one."""
    file = tree.parent / cifar10.ARCHIVE
    with tarfile.open(file, "w:gz") as tar:
        tar.add(tree, tree.name)
    monkeypatch.setattr(cifar10, "HASH", f"md5:{hashlib.md5(file.read_bytes()).hexdigest()}")
    tree.rename(tree.parent / "elsewhere")
    return file


def test_an_archive_that_lies_there_is_verified_and_unpacked(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = archived(tree, monkeypatch)
    task = LraImage(seq_len=1024)
    with pytest.raises(UsageError, match="not yet unpacked. Run `cab data get lra_image`"):
        task.source(tree.parent)
    task.fetch(tree.parent)
    assert task_and_source(tree.parent)[1].comparable and file.exists()


def test_a_truncated_archive_is_refused_and_nothing_of_it_is_data(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = archived(tree, monkeypatch)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UsageError, match=r"is truncated or damaged: its hash is md5:\w+, not md5:\w+"):
        LraImage(seq_len=1024).fetch(tree.parent)
    assert not tree.exists()


def test_an_archive_without_a_batch_is_refused_and_nothing_of_it_is_data(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(iter(tree.glob("data_batch_3*"))).unlink()
    archived(tree, monkeypatch)
    with pytest.raises(UsageError, match="lacks data_batch_3"):
        LraImage(seq_len=1024).fetch(tree.parent)
    assert not tree.exists() and not [p for p in tree.parent.iterdir() if p.name.endswith(".part")]


# Fashion-MNIST.


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fifty training and ten test images in the released files."""
    folder = tmp_path / fashion_mnist.FOLDER
    folder.mkdir()
    for prefix, count in (("train", 50), ("t10k", 10)):
        pixels = struct.pack(">4i", 2051, count, 28, 28) + bytes(i % 256 for i in range(count * 784))
        labels = struct.pack(">2i", 2049, count) + bytes(i % 10 for i in range(count))
        for name, content in ((f"{prefix}-images-idx3-ubyte.gz", pixels), (f"{prefix}-labels-idx1-ubyte.gz", labels)):
            (folder / name).write_bytes(gzip.compress(content))
            monkeypatch.setitem(fashion_mnist.FILES, name, hashlib.sha256(content).hexdigest())
    return folder


def test_fashion_mnist_stands_in_padded_and_says_so(fashion: Path) -> None:
    task, source = task_and_source(fashion.parent)
    assert source.name == "Fashion-MNIST" and not source.comparable and "another task than CIFAR-10" in source.note
    assert source.counts == {"train": 45, "validation": 5, "test": 10}
    pixels, label = task.split("train", 0)[3]
    image = pixels.reshape(32, 32)
    assert label == 3 and (image[2:30, 2:30].reshape(-1) == [(3 * 784 + i) % 256 for i in range(784)]).all()
    assert image.sum() == image[2:30, 2:30].sum()


def test_cifar_comes_before_it(fashion: Path, tree: Path) -> None:
    assert tree.parent == fashion.parent and task_and_source(tree.parent)[1].name == "CIFAR-10"


@pytest.mark.parametrize("damage", ["truncated", "other", "gone"])
def test_a_damaged_file_of_it_is_named(fashion: Path, damage: str) -> None:
    file = fashion / "t10k-images-idx3-ubyte.gz"
    raw = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(raw[:-20] if damage == "truncated" else gzip.compress(b"other"))
    message = "cannot be read" if damage == "gone" else "is truncated or damaged"
    for use in (
        LraImage(seq_len=1024).source,
        lambda folder: LraImage(seq_len=1024).fetch(folder, source="fashion-mnist"),
    ):
        with pytest.raises(UsageError, match=rf"t10k-images-idx3-ubyte\.gz {message}"):
            use(fashion.parent)


def test_where_there_is_nothing_the_commands_are_named(tmp_path: Path) -> None:
    missing = LraImage(seq_len=1024).source(tmp_path)
    assert isinstance(missing, Missing)
    assert "cab data get lra_image (CIFAR-10" in missing.run and "--source fashion-mnist" in missing.run
    with pytest.raises(UsageError, match="unknown source 'mnist'"):
        LraImage(seq_len=1024).fetch(tmp_path, source="mnist")


# The task.


def test_a_black_pixel_is_a_pixel_but_for_the_release(tree: Path) -> None:
    for protocol in ("clean", "lra"):
        task, _ = task_and_source(tree.parent, protocol=protocol)
        pixels = np.zeros(1024, np.uint8)
        pixels[5] = 7
        batch = task.collate([(pixels, 3)], trim=True)
        assert batch.x.shape == (1, 1024) and batch.x.sum() == 7 and batch.target.tolist() == [3]
        assert (batch.x_mask is None) if protocol == "clean" else batch.x_mask.sum() == 1


def test_another_number_of_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="seq_len=1000: with pooling=mean it is 1024, and nothing else"):
        LraImage(seq_len=1000)
    with pytest.raises(ValueError, match="seq_len=1024: with pooling=cls it is 1025"):
        LraImage(seq_len=1024, pooling="cls")


def test_floors_are_what_intensities_and_classes_give(tree: Path) -> None:
    task, _ = task_and_source(tree.parent)
    floors = {name: value["accuracy"] for name, value in task.floors().items()}
    assert floors["chance"] == 0.1 and floors["majority class"] == 0.1
    assert 0 <= floors["pixel intensities"] <= 0.5  # the colours are noise


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_builds_a_model_and_a_recipe(scale: str) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    layers = {**node["case"], **node["scales"][scale]}
    params = {k: v for k, v in node.items() if k not in ("name", "case", "scales")}
    assert params == registry.card("task", "lra_image").params
    task = LraImage(seq_len=layers["seq_len"], heads=layers["heads"], dim=layers["dim"], **params | layers["task"])
    attention = LayerBuilder(registry.load("mechanism", "none"), {}, "NS")
    model = task.model(attention)
    assert {m.slot.max_len for m in attention.built} == {layers["seq_len"]}
    recipe = Recipe.of(layers["training"])
    if scale == "paper":
        assert model.encoder.width == 128 and task.sizes["heads"] * task.sizes["dim"] == 64
        assert recipe.rate(recipe.warmup - 1) == 5e-4 and recipe.steps * layers["batch"] == 200 * 44_800


def test_the_model_learns_from_every_pixel(tree: Path) -> None:
    task, _ = task_and_source(tree.parent)
    model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS"))
    batch = task.collate([task.split("train", 0)[i] for i in range(2)])
    task.loss(model, batch).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert task.score(model, batch)["accuracy"].shape == torch.Size([2])
