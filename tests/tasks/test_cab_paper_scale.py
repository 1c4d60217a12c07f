"""CAB's tasks at small and paper scale: official data, one step of training at batch 1 and an eighth of the length."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.data import faces, forecasting, ljspeech, multi_news, pcn, pg19
from cab.data.espeak import Utterance
from cab.planning.plan import case_of
from cab.planning.points import points
from cab.plugins import registry
from cab.worker.task_setup import build_task


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data of the right form: short books, and noise in place of ETTh1, shapes, faces and speech."""
    (tmp_path / "1.txt").write_text("Call me what you like. " * 2000)
    monkeypatch.setattr(pg19, "read_tree", lambda folder: {split: [folder / "1.txt"] for split in pg19.BOOKS})
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


# an eighth of the pixels is no square
SHORTER = {("cab_sr", "paper"): 48 * 48, ("cab_sr", "small"): 16 * 16}
OFFICIAL = {
    "cab_lm": "PG-19",
    "cab_lstf": "ETTh1",
    "cab_mlm": "PG-19",
    "cab_pcc": "PCN",
    "cab_sr": "FFHQ and CelebA-HQ",
    "cab_sum": "Multi-News",
    "cab_tts_fastspeech2": "LJSpeech",
    "cab_tts_transformer": "LJSpeech",
}


NAMED = {
    "cab_lm": "pg19",
    "cab_lstf": "ETTh1",
    "cab_mlm": "pg19",
    "cab_pcc": "PCN",
    "cab_sr": "FFHQ",
    "cab_sum": "Multi-News",
    "cab_tts_fastspeech2": "LJSpeech",
    "cab_tts_transformer": "LJSpeech",
}


def test_no_task_is_left_out() -> None:
    assert [name for name in registry.names("task") if name.startswith("cab_")] == sorted(OFFICIAL)


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_where_the_official_data_are_not_there_no_other_stand_in(name: str, scale: str, tmp_path: Path) -> None:
    case = case_of(points([f"task={name}", "mechanism=softmax", f"scale={scale}"])[0])
    missing = build_task(case).source(tmp_path)
    assert isinstance(missing, Missing) and NAMED[name] in missing.run


@pytest.mark.long
@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_one_step_moves_every_weight_that_has_a_gradient(name: str, scale: str, folder: Path) -> None:
    case = case_of(points([f"task={name}", "mechanism=softmax", f"scale={scale}"])[0])
    lengths = ("label", "least")  # hyper-parameters that are lengths too
    changes: dict[str, Any] = {key: case.task_params[key] // 8 for key in lengths if key in case.task_params}
    n = SHORTER.get((name, scale), case.n // 8)
    task = registry.load("task", name)(
        seq_len=n, source_len=case.m // 8, heads=case.heads, dim=case.dim, **{**case.task_params, **changes}
    )
    source = task.source(folder)
    assert isinstance(source, Source) and source.name == OFFICIAL[name]
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
    gradients = {key: p.grad.abs().max().item() for key, p in model.named_parameters() if p.grad is not None}
    # a bias before a norm, or of keys, has no gradient but what rounding leaves of it, which may move it or not
    assert (
        {key for key, most in gradients.items() if most > 1e-6} <= moved <= {key for key in gradients if gradients[key]}
    )
    assert len(moved) > 0.8 * len(before)
