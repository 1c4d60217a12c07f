"""CAB's forecasting: the series, what the model is shown, errors, floors, sizes."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import forecasting, hourly_traffic
from cab.data.forecasting import Released
from cab.errors import UsageError
from cab.planning.plan import case_of
from cab.planning.points import points
from cab.plugins import registry
from cab.worker.task_setup import build_task

CabLSTF: Any = registry.load("task", "cab_lstf")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "cab_lstf.yaml"
HOURS = 1000
TIMES = np.datetime64("2016-07-01T00", "h") + np.arange(HOURS)
VALUES = np.random.default_rng(0).normal(5, 3, (HOURS, 3)).round(3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with the traffic, and with ECL as a release of three variables would have it."""
    (tmp_path / hourly_traffic.FOLDER).mkdir()
    monkeypatch.setattr(hourly_traffic, "read", lambda tree: (TIMES, VALUES[:, :1]))
    monkeypatch.setitem(forecasting.RELEASED, "ECL", Released("ECL.csv", "b", HOURS))
    rows = [
        f"{str(time).replace('T', ' ')}:00:00,{','.join(map(str, row))}"
        for time, row in zip(TIMES, VALUES, strict=True)
    ]
    (tmp_path / "ECL.csv").write_text("\n".join(["date,a,b,c", *rows]) + "\n")
    return tmp_path


def task_and_source(folder: Path, **changes: Any) -> tuple[Any, Source]:
    task = CabLSTF(**{"seq_len": 8, "source_len": 30, "heads": 2, "dim": 4, "mlp": 8, **changes})
    source = task.source(folder)
    assert isinstance(source, Source)
    return task, source


def batch(task: Any, split: str = "test", count: int = 6) -> Any:
    windows = task.split(split, 0)
    return task.collate([windows[i] for i in range(count)])


# Series.


def test_released_series_are_comparable_and_half_of_one_is_refused_and_traffic_never_is(folder: Path) -> None:
    _, traffic = task_and_source(folder)
    assert traffic.name == "hourly traffic" and not traffic.comparable
    assert traffic.counts == {"train": 600 - 30 - 7, "validation": 200 - 7, "test": 200 - 7}
    _, released = task_and_source(folder, series="ECL")
    assert released.name == "ECL" and released.comparable
    assert released.counts == {"train": 700 - 30 - 7, "validation": 100 - 7, "test": 200 - 7}
    assert not task_and_source(folder, series="ECL", calendar=False)[1].comparable
    text = (folder / "ECL.csv").read_text().splitlines()
    (folder / "ECL.csv").write_text("\n".join(text[:-100]) + "\n")
    with pytest.raises(UsageError, match=r"ECL.csv has 900 rows, and the release 1,000. Complete it, or move it away"):
        task_and_source(folder, series="ECL")


def test_one_series_never_stands_in_for_another(tmp_path: Path) -> None:
    missing = CabLSTF(seq_len=8).source(tmp_path)
    assert isinstance(missing, Missing) and missing.run.startswith("cab data get cab_lstf")
    missing = CabLSTF(seq_len=8, series="ETTh2").source(tmp_path)
    assert isinstance(missing, Missing) and missing.run == "cab data get cab_lstf --series ETTh2"
    weather = CabLSTF(seq_len=8, series="WTH").source(tmp_path)  # of no fixed address
    assert isinstance(weather, Missing) and "put WTH.csv there" in weather.run
    assert "github.com/zhouhaoyi/Informer2020" in weather.run


def test_a_series_that_is_too_short_for_the_lengths_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="validation is shorter than 30 [+] 300 rows; give a smaller seq_len"):
        CabLSTF(seq_len=300, source_len=30).source(folder)
    (folder / "ETT-small").mkdir()
    (folder / "ETT-small" / "ETTh1.csv").write_text((folder / "ECL.csv").read_text().replace("a,b,c", "a,OT,c"))
    with pytest.raises(UsageError, match="ETTh1.csv has 1,000 rows, and the release 17,420. Complete it"):
        CabLSTF(seq_len=8, series="ETTh1").source(folder)


def test_values_are_standardised_by_training_alone(folder: Path) -> None:
    for features, columns in (("univariate", [1]), ("multivariate", [0, 1, 2])):
        task, _ = task_and_source(folder, series="ECL", features=features)
        training = VALUES[:700, columns]
        expected = (VALUES[:, columns] - training.mean(0)) / training.std(0)
        np.testing.assert_allclose(task.split("test", 0).values, expected, rtol=1e-4, atol=1e-5)


# What the model is shown.


@pytest.mark.parametrize("calendar", [False, True])
def test_the_decoder_begins_with_a_label_of_the_past_and_sees_no_future(folder: Path, calendar: bool) -> None:
    task, _ = task_and_source(folder, label=3, calendar=calendar, series="ECL", features="multivariate")
    b = batch(task)
    known = 5 if calendar else 0
    assert b.x.shape == (6, 8, 3 + known) and b.y.shape == (6, 30, 3 + known) and b.target.shape == (6, 5, 3)
    assert torch.equal(b.x[:, :3, :3], b.y[:, -3:, :3]) and not b.x[:, 3:, :3].any()
    first = 800  # of the test
    rows = torch.from_numpy(task.split("test", 0).values)
    for i in range(6):
        assert torch.equal(b.y[i, :, :3], rows[first + i - 30 : first + i])
        assert torch.equal(b.target[i], rows[first + i : first + i + 5])
    if calendar:
        place = torch.from_numpy(forecasting.calendar(TIMES))
        assert torch.equal(b.x[0, :, 3:], place[first - 3 : first + 5])
        assert torch.equal(b.y[0, :, 3:], place[first - 30 : first])


def test_errors_are_means_over_rows_and_variables(folder: Path) -> None:
    task, _ = task_and_source(folder, series="ECL", features="multivariate")
    b = batch(task, count=2)
    error = torch.zeros(2, 8, 3)
    error[0, 4, 1], error[1, :, 2] = 6.0, -3.0

    def model(*parts: Any) -> Any:
        return b.target + error

    scores = task.score(model, b)
    assert scores["mse"].tolist() == pytest.approx([36 / 24, 9 / 3], rel=1e-4)
    assert scores["mae"].tolist() == pytest.approx([6 / 24, 3 / 3], rel=1e-4)
    assert task.loss(model, b).item() == pytest.approx((36 / 24 + 9 / 3) / 2, rel=1e-4)


def test_floors_are_simple_forecasts_of_the_test(folder: Path) -> None:
    task, _ = task_and_source(folder, seq_len=26)
    b = batch(task, count=len(task.split("test", 0)))
    y, target = b.y[..., :1], b.target
    day = torch.cat([y[:, 30 - 24 :], y[:, 30 - 24 : 30 - 22]], 1)
    expected = {"mean of training": torch.zeros_like(target), "last row": y[:, -1:], "last day repeated": day}
    floors = task.floors()
    assert set(floors) == set(expected)
    for name, forecast in expected.items():
        assert floors[name]["mse"] == pytest.approx((target - forecast).square().mean().item(), rel=1e-4)
        assert floors[name]["mae"] == pytest.approx((target - forecast).abs().mean().item(), rel=1e-4)
    assert "last day repeated" not in task_and_source(folder, source_len=23)[0].floors()


# The model and the YAML.


@pytest.mark.parametrize(("pattern", "built"), [("NC", [(8, 30)]), ("NS", [(30, 30), (30, 30)])])
def test_every_slot_is_under_test(folder: Path, pattern: str, built: list[Any]) -> None:
    task, _ = task_and_source(folder)
    attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern)
    model = task.model(attention)
    assert [(m.slot.max_len, m.slot.source_len) for m in attention.built] == built
    task.loss(model, batch(task, "train")).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("label", [-1, 8, 31])
def test_a_label_that_leaves_no_row_or_has_no_past_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=f"label={label}: from 0, below seq_len=.* and at most source_len=30"):
        CabLSTF(seq_len=8 if label < 9 else 99, source_len=30, label=label)
    for wrong in ({"series": "ETTh3"}, {"features": "both"}):
        with pytest.raises(UsageError, match=f"unknown {next(iter(wrong))}"):
            CabLSTF(seq_len=8, **wrong)


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    signature = inspect.signature(CabLSTF.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own
    for scale in node["scales"].values():
        Recipe.of(scale["training"])
    paper = node["scales"]["paper"]
    task = CabLSTF(seq_len=paper["seq_len"], source_len=paper["source_len"], **paper["task"])
    assert task.horizon == 720
    assert paper["training"]["steps"] == 6 * ((8640 - 336 - 720 + 1) // 32)  # epochs of whole batches


def test_the_paper_scale_is_informers_for_etth1() -> None:
    case = case_of(points(["task=cab_lstf", "mechanism=softmax", "scale=paper"])[0])
    task = build_task(case)
    task.variables = 7  # of ETT
    with torch.device("meta"):
        model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NC"))
    assert (case.m, task.label, task.horizon) == (336, 336, 720)
    attention, mlp, norm = 4 * (512 * 512 + 512), 512 * 2048 + 2048 + 2048 * 512 + 512, 2 * 512
    embedding, distilling = 7 * 3 * 512 + 5 * 512, 3 * 512 * 512 + 512 + norm
    encoder, decoder = 2 * (attention + mlp + 2 * norm) + distilling + norm, 2 * attention + mlp + 3 * norm + norm
    expected = 2 * embedding + encoder + decoder + 512 * 7 + 7
    assert sum(p.numel() for p in model.parameters()) == expected == 11_329_031
