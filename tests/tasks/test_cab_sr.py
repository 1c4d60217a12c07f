"""CAB's super-resolution: the images, what the model is shown, scores with fixed noise, floors, sizes."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.backbones.image_quality import psnr, ssim
from cab.contracts.recipe import Recipe
from cab.data import faces, fashion_mnist
from cab.errors import UsageError
from cab.plugins import registry

CabSR: Any = registry.load("task", "cab_sr")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "cab_sr.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with smooth images in place of Fashion-MNIST."""
    (tmp_path / fashion_mnist.FOLDER).mkdir()

    def read(tree: Path, split: str) -> Any:
        rng = np.random.default_rng({"train": 0, "test": 1}[split])
        small = rng.integers(0, 256, (40, 8, 8)).astype(np.uint8)
        images = [np.asarray(Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC)) for each in small]
        return np.stack(images).reshape(40, -1), np.zeros(40, np.int64)

    monkeypatch.setattr(fashion_mnist, "read", read)
    return tmp_path


def task_and_source(folder: Path, **changes: Any) -> tuple[Any, Source]:
    task = CabSR(**{"seq_len": 1024, "heads": 1, "dim": 8, "diffusion_steps": 10, "sampling_steps": 3, **changes})
    source = task.source(folder)
    assert isinstance(source, Source)
    return task, source


def batch(task: Any, count: int = 3, split: str = "test") -> Any:
    items = task.split(split, 0)
    return task.collate([items[i] for i in range(count)])


# Images.


def test_no_image_is_in_two_splits(folder: Path) -> None:
    task, source = task_and_source(folder)
    assert source.counts == {"train": 36, "validation": 4, "test": 40} and not source.comparable
    images = {split: {task.split(split, 0)[i][1].tobytes() for i in range(n)} for split, n in source.counts.items()}
    assert len(set.union(*images.values())) == 80
    assert "MIT licence" in source.note


def test_the_condition_is_the_image_made_smaller_and_as_large_again(folder: Path) -> None:
    task, _ = task_and_source(folder)
    condition, image = task.split("test", 0)[5]
    assert condition.shape == image.shape == (32, 32, 1) and condition.dtype == image.dtype == np.uint8
    small = Image.fromarray(image[:, :, 0]).resize((8, 8), Image.Resampling.BICUBIC)
    assert np.array_equal(condition[:, :, 0], np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC)))
    b = batch(task, 6)
    assert b.x.shape == b.target.shape == (6, 1, 32, 32)
    np.testing.assert_allclose((b.target[5, 0] + 1) / 2 * 255, image[:, :, 0], atol=1e-4)
    np.testing.assert_allclose((b.x[5, 0] + 1) / 2 * 255, condition[:, :, 0], atol=1e-4)


def test_smaller_images_are_means_of_areas_and_larger_ones_are_refused(folder: Path) -> None:
    whole, small = (task_and_source(folder, seq_len=side**2)[0].split("test", 0)[0][1] for side in (32, 16))
    areas = whole[:, :, 0].reshape(16, 2, 16, 2).astype(float).mean((1, 3))
    # rows and columns are rounded one after the other
    assert small.shape == (16, 16, 1) and np.abs(small[:, :, 0] - areas).max() <= 1
    with pytest.raises(UsageError, match="seq_len=4096: Fashion-MNIST has 32 x 32 pixels; give 1024 or less"):
        task_and_source(folder, seq_len=4096)


def test_faces_never_come_from_clothes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = CabSR(seq_len=16384, images="faces").source(folder)
    assert isinstance(missing, Missing) and "put ffhq_16_128/hr_128 and celebahq_16_128/hr_128 there" in missing.run
    splits = {
        split: np.full((n, 128, 128, 3), n, np.uint8) for split, n in (("train", 3), ("validation", 2), ("test", 1))
    }
    monkeypatch.setattr(faces, "read_tree", lambda folder: splits)
    task, source = task_and_source(folder, seq_len=16384, images="faces", factor=8)
    assert source.comparable and source.counts == {"train": 3, "validation": 2, "test": 1}
    assert task.split("train", 0)[0][0].shape == (128, 128, 3)
    missing = CabSR(seq_len=1024).source(folder / "nowhere")
    assert isinstance(missing, Missing) and missing.run.startswith("cab data get cab_sr")


# Scores.


def test_scores_of_a_network_that_knows_the_image_are_those_of_no_error(folder: Path) -> None:
    task, _ = task_and_source(folder)
    b = batch(task)

    def network(inputs: Any, level: Any) -> Any:
        assert torch.equal(inputs[:, :1], b.x)
        level = level[:, None, None, None]
        return (inputs[:, 1:] - level * b.target) / (1 - level**2).sqrt()

    scores = task.score(network, b)
    assert scores["eps_mse"].max() < 1e-6 and scores["psnr"].tolist() == [100.0] * 3
    assert scores["ssim"].tolist() == pytest.approx([1.0] * 3)


def test_scores_of_a_network_that_finds_no_noise(folder: Path) -> None:
    task, _ = task_and_source(folder)
    b = batch(task)
    drawn: list[torch.Tensor] = []
    scores = task.score(lambda inputs, level: (drawn.append(inputs), torch.zeros_like(inputs[:, 1:]))[1], b)
    # the noise itself is the error: 4,096 numbers from N(0, 1), so that their mean square is 1 within a tenth
    assert ((scores["eps_mse"] - 1).abs() < 0.1).all()
    levels = task.diffusion.fixed_levels(4)
    noise = [(x[:, 1:] - level * b.target) / (1 - level**2) ** 0.5 for x, level in zip(drawn, levels, strict=False)]
    expected = torch.stack([each.square().flatten(1).mean(1) for each in noise]).mean(0)
    torch.testing.assert_close(scores["eps_mse"], expected, rtol=1e-3, atol=1e-3)


def test_an_image_has_the_same_scores_in_every_batch_and_again(folder: Path) -> None:
    task, _ = task_and_source(folder)
    model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")).eval()
    items = task.split("test", 0)
    with torch.no_grad():
        together = task.score(model, task.collate([items[i] for i in (3, 1, 2)]))
        alone = task.score(model, task.collate([items[1]]))
    for name, values in together.items():
        assert values.shape == (3,)
        torch.testing.assert_close(values[1:2], alone[name], rtol=1e-3, atol=1e-3)


def test_the_loss_is_the_mean_error_of_the_noise_at_random_levels(folder: Path) -> None:
    task, _ = task_and_source(folder)
    b = batch(task)
    seen: list[Any] = []
    torch.manual_seed(0)
    loss = task.loss(lambda inputs, level: (seen.append((inputs, level)), torch.zeros_like(inputs[:, 1:]))[1], b)
    inputs, level = seen[0]
    noise = (inputs[:, 1:] - level[:, None, None, None] * b.target) / (1 - level[:, None, None, None] ** 2).sqrt()
    assert loss.item() == pytest.approx(noise.abs().mean().item(), rel=1e-3) and len(set(level.tolist())) == 3


def test_the_floor_is_the_bicubic_copy(folder: Path) -> None:
    task, _ = task_and_source(folder)
    b = batch(task, 40)
    pixels = [((each + 1) / 2 * 255).round() for each in (b.x, b.target)]

    def network(inputs: Any, level: Any) -> Any:  # the noise that there would be if the copy were the image
        level = level[:, None, None, None]
        return (inputs[:, 1:] - level * b.x) / (1 - level**2).sqrt()

    floor = task.floors()["bicubic"]
    assert floor["psnr"] == pytest.approx(psnr(*pixels).mean().item())
    assert floor["ssim"] == pytest.approx(ssim(*pixels).mean().item())
    assert floor["eps_mse"] == pytest.approx(task.score(network, b)["eps_mse"].mean().item(), rel=1e-3)


# The model and the YAML.


def test_every_slot_is_under_test(folder: Path) -> None:
    task, _ = task_and_source(folder)
    attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")
    model = task.model(attention)
    assert [m.slot.max_len for m in attention.built] == [256] * 4
    task.loss(model, batch(task)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seq_len": 1000}, ValueError, "seq_len=1000: the pixels of a square image"),
        ({"seq_len": 100}, ValueError, "seq_len=100: at least 121, for SSIM compares 11 by 11 pixels"),
        *(
            ({name: value}, ValueError, f"{name}={value}: at least 1")
            for name in ("heads", "dim", "factor", "levels", "blocks", "groups")
            for value in (0, -1)
        ),
        ({"factor": 5}, ValueError, "factor=5 does not divide the side of 32 pixels"),
        ({"images": "cifar"}, UsageError, "unknown images 'cifar'"),
        ({"sampling_steps": 101}, ValueError, "sampling_steps=101: from 1 to diffusion_steps=100"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CabSR(**{"seq_len": 1024, **changes})


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    signature = inspect.signature(CabSR.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own
    assert list(node["scales"]) == ["quick", "small", "paper"]
    for scale in node["scales"].values():
        Recipe.of(scale["training"])


def test_the_paper_scale_is_the_open_implementation_with_attention_at_four_sides() -> None:
    paper: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))["scales"]["paper"]
    task = CabSR(**{key: paper[key] for key in ("seq_len", "heads", "dim")}, **paper["task"])
    counts = {}
    for most_side in (16, 128):
        task.sizes["most_side"] = most_side
        attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")
        with torch.device("meta"):
            model = task.model(attention)
        biases = sum(p.numel() for n, p in model.named_parameters() if "projections" in n and n.endswith("bias"))
        counts[most_side] = sum(p.numel() for p in model.parameters()) - biases
    assert counts[16] == 97_807_491  # as published
    # and five more attention layers at each of the sides 32, 64 and 128: norm, q, k, v and the way out
    assert counts[128] - counts[16] == 5 * sum(2 * c + 3 * c * c + c * c + c for c in (64, 128, 256))
    assert {m.slot.max_len for m in attention.built} == {16384, 4096, 1024, 256, 64}
