"""CAB's tasks at their paper scale: one step of training at batch 1 and an eighth of the length."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cab import Source
from cab.attention.build import LayerBuilder
from cab.data import faces, forecasting, imdb, ljspeech, multi_news, pcn
from cab.data.espeak import Utterance
from cab.planning.plan import case_of
from cab.planning.points import points
from cab.plugins import registry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data of the right form: short reviews in place of text, and noise in place of ETTh1, shapes, faces and speech."""
    reviews = [(f"{i} out of ten. ".encode() * 100, 0) for i in range(300)]
    monkeypatch.setattr(imdb, "package_file", lambda: tmp_path)
    monkeypatch.setattr(imdb, "read_package", lambda file: reviews)
    rows = forecasting.RELEASED["ETTh1"].rows
    times = np.datetime64("2016-07-01T00", "h") + np.arange(rows)
    series = np.random.default_rng(0).normal(size=(rows, 7))
    (tmp_path / "ETT-small").mkdir()
    (tmp_path / "ETT-small" / "ETTh1.csv").touch()
    monkeypatch.setattr(forecasting, "read_csv", lambda *_: (times, series))
    shape = pcn.Shape(tmp_path / "whole.pcd", (tmp_path / "part.pcd",))
    rng = np.random.default_rng(0)
    monkeypatch.setattr(pcn, "read_tree", lambda _: {split: [shape] for split in pcn.SPLITS})
    monkeypatch.setattr(pcn, "read_pcd", lambda file: rng.normal(size=(16_384, 3)).astype(np.float32))
    face = rng.integers(0, 256, (1, faces.SIDE, faces.SIDE, 3)).astype(np.uint8)
    monkeypatch.setattr(faces, "read_tree", lambda _: {split: face for split in ("train", "validation", "test")})
    texts = [(f"Text number {i} is long. " * 200, f"Number {i}.") for i in range(4)]
    monkeypatch.setattr(multi_news, "read_tree", lambda _: {split: texts for split in multi_news.EXAMPLES})
    durations = rng.integers(1, 9, 40)
    mel, pitch, energy = (rng.normal(size=(durations.sum(), *width)) for width in ((80,), (), ()))
    utterances = [Utterance(np.arange(40), durations, mel, pitch, energy)]
    monkeypatch.setattr(
        ljspeech, "read_tree", lambda _: {split: utterances for split in ("train", "validation", "test")}
    )
    return tmp_path


# an eighth of 128 * 128 pixels is no square: 48 * 48 are a seventh
SHORTER = {"cab_sr": 48 * 48}


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in registry.names("task") if name.startswith("cab_")])
def test_one_step_of_the_paper_scale_moves_every_weight_that_has_a_gradient(name: str, folder: Path) -> None:
    case = case_of(points([f"task={name}", "mechanism=softmax", "scale=paper"])[0])
    lengths = ("label", "least")  # hyper-parameters that are lengths too
    changes: dict[str, Any] = {key: case.task_params[key] // 8 for key in lengths if key in case.task_params}
    n = SHORTER.get(name, case.n // 8)
    task = registry.load("task", name)(
        seq_len=n, source_len=case.m // 8, heads=case.heads, dim=case.dim, **{**case.task_params, **changes}
    )
    assert isinstance(task.source(folder), Source)
    torch.manual_seed(0)
    model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, case.pattern)).train()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    batch = task.collate([task.split("train", 0)[0]])
    assert task.seq_len == n and len(batch.x) == 1
    loss = task.loss(model, batch)
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    with_gradient = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == with_gradient and len(moved) > 0.8 * len(before)
