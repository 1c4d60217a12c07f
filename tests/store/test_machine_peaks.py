"""What a machine can do at most, and how much of it a timing used."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from cab.cli import app
from typer.testing import CliRunner

from cab import environment
from cab.analysis.utilisation import utilisation
from cab.contracts.messages import PeakAnswer
from cab.report import print_utilisation
from cab.runner import locks
from cab.store import machine_peaks
from cab.store.table import COLUMNS
from cab.terminal.printing import console
from cab.worker.peak_throughput import copy_rate, matmul_rate

FACTS: dict[str, Any] = {"host": "here", "device": "cpu", "threads": 1}
HERE = environment.environment_id(FACTS)


def rows(**values: float) -> pd.DataFrame:
    common = dict.fromkeys(COLUMNS, None)
    common |= {"status": "ok", "case_id": "c", "environment_id": HERE, "dtype": "float32", "mechanism": "softmax"}
    common |= {
        "n": 8,
        "m": 8,
        "pattern": "CS",
        "pass": "forward",
        "params": "{}",
        "backend": "eager",
        "level": "attend",
    }
    common |= {"task": "speed"}
    return pd.DataFrame([{**common, "metric": name, "value": value} for name, value in values.items()])


def test_peaks_are_kept_for_their_environment_and_read_back(tmp_path: Path) -> None:
    assert machine_peaks.load(tmp_path) == {}
    path = machine_peaks.keep(tmp_path, FACTS, PeakAnswer({"float32": 100.0}, 10.0))
    (path.parent / "half.json").write_text('{"environment_id": "x", ')
    found = machine_peaks.load(tmp_path)
    assert (
        list(found) == [HERE] and found[HERE]["matmul"] == {"float32": 100.0} and found[HERE]["time"].startswith("20")
    )


def test_utilisation_is_of_the_needed_operations_and_the_roofline_of_what_takes_longer() -> None:
    peak = {HERE: {"matmul": {"float32": 100.0}, "copy": 10.0, "time": "2026"}}
    (line,) = utilisation(rows(latency=2.0, flops_needed=50.0, flops_counted=90.0, bytes_needed=4.0), peak).to_dict(
        "records"
    )
    assert (line["utilisation"], line["roofline"], line["bound"], line["rate"]) == (0.25, 0.25, "compute", 25.0)
    (line,) = utilisation(rows(latency=2.0, flops_counted=50.0, bytes_needed=10.0), peak).to_dict("records")
    assert (line["utilisation"], line["roofline"], line["bound"]) == (0.25, 0.5, "memory")
    assert line["peak_time"] == "2026"


def test_a_training_step_is_held_to_the_products_of_its_precision() -> None:
    peak = {HERE: {"matmul": {"float32": 100.0, "bfloat16": 1000.0}, "copy": 1e9, "time": "2026"}}
    step = rows(latency=1.0, flops_counted=50.0, bytes_needed=1.0).assign(**{"pass": "train"})

    def used(precision: str, device: str) -> float:
        settings = json.dumps({"training": {"precision": precision}})
        return float(utilisation(step.assign(settings=settings, device=device), peak)["utilisation"].iloc[0])

    assert (used("auto", "cpu"), used("float32", "cuda")) == (0.5, 0.5)
    assert (used("auto", "cuda"), used("bfloat16", "cpu")) == (0.05, 0.05)


def test_one_gpu_has_one_identity_and_one_lock_whatever_it_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(environment, "_nvidia", lambda query, gpu: asked.append(gpu) or f"card {gpu}")
    monkeypatch.setattr(locks, "runtime", lambda: tmp_path)

    def locked(device: str) -> set[str]:
        with locks.device(device, True):
            return {path.name for path in tmp_path.iterdir()}

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment.identity("cuda", 1, False) == environment.identity("cuda:0", 1, False)
    assert locked("cuda") == locked("cuda:0") == {"cuda0.lock"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a")
    assert environment.identity("cuda", 1, False)["gpu"] == "card 3"
    assert locked("cuda:1") == {"cuda0.lock", "cudaGPU-8a.lock"}
    assert environment.identity("cpu", 1, False)["gpu"] is None and set(asked) == {"0", "3"}


@pytest.mark.parametrize(
    "changes", [{"environment_id": "elsewhere"}, {"dtype": "bfloat16"}, {"status": "oom"}], ids=lambda c: next(iter(c))
)
def test_without_a_peak_of_the_same_environment_and_dtype_there_is_no_utilisation(changes: dict[str, str]) -> None:
    peak = {HERE: {"matmul": {"float32": 100.0}, "copy": 10.0, "time": "2026"}}
    found = utilisation(rows(latency=2.0, flops_needed=50.0, bytes_needed=4.0).assign(**changes), peak)
    assert not len(found)
    print_utilisation(found, console())


def test_the_longest_length_of_each_curve_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    peak = {HERE: {"matmul": {"float32": 1e9}, "copy": 1e9, "time": "2026-11-25"}}
    short, long = (
        rows(latency=1.0, flops_needed=5e8, bytes_needed=4.0),
        rows(latency=1.0, flops_needed=25e7, bytes_needed=4.0),
    )
    table = utilisation(pd.concat([short, long.assign(n=16, case_id="d")]), peak)
    print_utilisation(table, console())
    shown = capsys.readouterr().out
    assert len(table) == 2 and "25.0%" in shown and "50.0%" not in shown and "measured 2026-11-25" in shown


def test_rates_are_of_the_fastest_call() -> None:
    assert 1e7 < matmul_rate(torch.float32, "cpu", sizes=(64, 128), seconds=0.01) < 1e13
    assert 1e6 < copy_rate("cpu", size=1 << 20, seconds=0.01) < 1e13


def test_a_device_that_is_not_there_has_no_peak(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--peak", "--device", "cuda:7", "--results", str(tmp_path)])
    assert done.exit_code == 2 and "Available: cpu" in done.output and machine_peaks.load(tmp_path) == {}


def test_lines_of_one_mechanism_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    peak = {HERE: {"matmul": {"float32": 1e9}, "copy": 1e9, "time": "2026-11-25"}}
    one = rows(latency=1.0, flops_needed=5e8, bytes_needed=4.0).assign(batch=2, seed=0, settings="{}")
    padded = one.assign(settings='{"padding":0.5}', case_id="d")
    table = utilisation(pd.concat([one, padded, one.assign(batch=4, case_id="e")]), peak)
    assert list(table["settings"]) == ["{}", '{"padding":0.5}', "{}"]
    print_utilisation(table, console())
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("batch 2", "batch 4", '{"padding":0.5}')) and shown.count("softmax") == 3
