"""`cab data get`: options that choose the data."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cab.commands.data import fetch_data
from cab.data import forecasting
from cab.errors import UsageError


def test_the_data_that_were_asked_for_are_what_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    released = forecasting.Released("ETT-small/ETTh1.csv", "OT", 17_000)
    monkeypatch.setitem(forecasting.RELEASED, "ETTh1", released)

    def fetch(folder: Path, series: str) -> None:
        assert series == "ETTh1"
        (folder / "ETT-small").mkdir()
        times = np.datetime64("2016-07-01T00:00") + np.arange(17_000) * np.timedelta64(60, "m")
        lines = ["date,OT", *(f"{time},{i % 24}" for i, time in enumerate(times))]
        (folder / "ETT-small" / "ETTh1.csv").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(forecasting, "fetch", fetch)
    fetch_data("cab_lstf", tmp_path, Console(width=200), ["--series", "ETTh1"])
    assert f"cab_lstf: ETTh1 in {tmp_path}; a run reads it with task.series=ETTh1" in capsys.readouterr().out


def test_another_choice_is_refused_before_anything_is_brought(tmp_path: Path) -> None:
    for name, options in (("cab_lstf", ["--series", "foo"]), ("cab_tts_fastspeech2", ["--corpus=foo"])):
        with pytest.raises(UsageError, match="unknown (series|corpus) 'foo'"):
            fetch_data(name, tmp_path, Console(), options)
    assert not list(tmp_path.iterdir())
