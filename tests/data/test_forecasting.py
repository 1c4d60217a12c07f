"""Series for forecasting: released files, borders in time, the calendar, windows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cab.data import forecasting
from cab.data.forecasting import Windows, borders, calendar, read_csv
from cab.errors import UsageError

TEXT = "date,a,b\n2016-07-01 00:00:00,1,2\n2016-07-01 01:00:00,3,4\n2016-07-01 02:00:00,5,6.5\n"


def test_a_released_file_gives_times_and_variables(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(TEXT)
    times, values = read_csv(file, 60)
    assert str(times[2]) == "2016-07-01T02:00" and values.tolist() == [[1, 2], [3, 4], [5, 6.5]]
    assert read_csv(file, 60, "b")[1].tolist() == [[2], [4], [6.5]]
    with pytest.raises(UsageError, match="has no variable OT: it has a, b"):
        read_csv(file, 60, "OT")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "2016-07-01 02",
            "2016-07-01 05",
            "has a gap: 2016-07-01 05:00:00 follows 2016-07-01 01:00:00, and rows are 60",
        ),
        ("3,4", "3,four", "cannot be read"),
        ("2016-07-01 01", "yesterday", "cannot be read"),
        ("5,6.5", "5", "cannot be read"),
        ("3,4", "3,", "cannot be read"),
        ("3,4", "3,nan", "has a gap: a value at 2016-07-01 01:00:00 is no finite number"),
        (TEXT, "date,a,b\n", "is no series: it has 2 variables and 0 rows. Restore the file"),
        (TEXT, "<html>\nnot found\n", "is no series: it has 0 variables and 1 rows"),
    ],
)
def test_a_file_with_a_gap_or_without_a_number_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(UsageError, match=message):
        read_csv(file, 60)


def test_a_file_that_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    for file in (tmp_path / "packed.csv", tmp_path):
        if file != tmp_path:
            file.write_bytes(b"\x1f\x8b\x08\xff\xfe")
        with pytest.raises(UsageError, match="cannot be read"):
            read_csv(file, 60)


def test_a_series_of_ett_is_downloaded_and_another_is_not(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = TEXT.encode()
    monkeypatch.setattr(forecasting, "ETT_URL", server.url.removesuffix("file.bin"))
    with pytest.raises(UsageError, match="ETTh1.csv is not the expected file"):
        forecasting.fetch(tmp_path, "ETTh1")
    assert not (tmp_path / "ETT-small" / "ETTh1.csv").exists()
    released = replace(forecasting.RELEASED["ETTh1"], sha256=server.hash.removeprefix("sha256:"))
    monkeypatch.setitem(forecasting.RELEASED, "ETTh1", released)
    forecasting.fetch(tmp_path, "ETTh1")
    assert (tmp_path / "ETT-small" / "ETTh1.csv").read_text() == TEXT
    with pytest.raises(UsageError, match="WTH is not downloaded: put WTH.csv into .*Informer2020"):
        forecasting.fetch(tmp_path, "WTH")


def test_borders_are_informers() -> None:
    assert borders(17_420, "ETTh1") == (8_640, 11_520, 14_400)
    assert borders(69_680, "ETTm1") == (34_560, 46_080, 57_600)
    assert borders(26_304, "ECL") == (18_412, 21_044, 26_304)
    assert borders(101, "traffic") == (60, 80, 101)


def test_the_calendar_says_where_a_time_is_in_hour_day_week_month_and_year() -> None:
    times = np.array(["2018-01-01T00:00", "2017-12-31T23:59", "2016-02-03T12:30"], "datetime64[m]")  # Mon, Sun, Wed
    expected = [[0, 0, 0, 0, 0], [1, 1, 1, 1, 364 / 365], [30 / 59, 12 / 23, 2 / 6, 2 / 30, 33 / 365]]
    np.testing.assert_allclose(calendar(times), np.array(expected) - 0.5, atol=1e-6)


def test_what_is_forecast_is_in_one_split_alone_and_its_past_ends_where_it_begins() -> None:
    values: Any = np.arange(100.0)[:, None]
    known: Any = np.arange(100)[:, None]
    splits = [Windows(values, known, *ends, length=10, horizon=5) for ends in ((0, 60), (60, 80), (80, 100))]
    forecast: list[set[float]] = []
    for windows in splits:
        rows: set[float] = set()
        for i in range(len(windows)):
            past, both, future = windows[i]
            assert np.concatenate([past, future]).tolist() == both.tolist() and len(past) == 10 and len(future) == 5
            assert (np.diff(both[:, 0]) == 1).all()
            rows |= set(future[:, 0].tolist())
        forecast.append(rows)
    assert [(min(rows), max(rows)) for rows in forecast] == [(10, 59), (60, 79), (80, 99)]
    assert [len(windows) for windows in splits] == [46, 16, 16]
    for index in (-1, 46):
        with pytest.raises(IndexError, match=f"window {index} of 46"):
            splits[0][index]
    assert len(Windows(values, known, 96, 100, 10, 5)) == 0
