"""Time series for forecasting: the released files of ETT, ECL and Weather, their splits in time, and calendar features.

A released file is a CSV: a date, then the variables, a row each hour, or each 15 minutes in ETTm1. Those of ETT are
downloaded (CC BY-ND 4.0); ECL and Weather are put into the data folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cab.data.download import download, folder_lock
from cab.errors import UsageError

MINUTE, DAY = np.timedelta64(1, "m"), np.timedelta64(1, "D")
MONTH = 30  # days, of ETT's splits
FEATURES = 5  # of the calendar
ADDRESS = "github.com/zhouhaoyi/Informer2020"  # says where the files are that are not downloaded
# a commit, because a branch moves
ETT_URL = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/1d16c8f4f943005d613b5bc962e9eeb06058cf07/"


@dataclass(frozen=True)
class Released:
    """A released series: where its file lies, its variable for univariate forecasting, its size and its hash."""

    file: str
    target: str
    rows: int
    minutes: int = 60  # between rows
    sha256: str | None = None  # of the file that can be downloaded


_SHA256 = {
    "ETTh1": "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    "ETTh2": "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
    "ETTm1": "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
}
# Informer's release (Zhou et al., arXiv 2012.07436, section 5.1): github.com/zhouhaoyi/ETDataset and Informer2020
RELEASED = {
    "ETTh1": Released("ETT-small/ETTh1.csv", "OT", 17_420, sha256=_SHA256["ETTh1"]),
    "ETTh2": Released("ETT-small/ETTh2.csv", "OT", 17_420, sha256=_SHA256["ETTh2"]),
    "ETTm1": Released("ETT-small/ETTm1.csv", "OT", 69_680, 15, _SHA256["ETTm1"]),
    "ECL": Released("ECL.csv", "MT_320", 26_304),
    "WTH": Released("WTH.csv", "WetBulbCelsius", 35_064),
}


def fetch(folder: Path, series: str) -> None:
    """Download a series of ETT, 2 to 10 MB; `UsageError` for another, which has to be put there."""
    released = RELEASED[series]
    if released.sha256 is None:
        raise UsageError(f"{series} is not downloaded: put {released.file} into {folder}, from {ADDRESS}")
    target = folder / released.file
    with folder_lock(folder):  # a lock within the data would be taken for data
        target.parent.mkdir(exist_ok=True)
        download(ETT_URL + released.file, f"sha256:{released.sha256}", target.parent)


def read_csv(file: Path, minutes: int, target: str | None = None) -> tuple[Any, Any]:
    """Read the times, datetime64 (rows,), and the variables, float64 (rows, variables), or the variable `target` alone.

    `UsageError` where a date or a number cannot be read or is not finite, or where rows are not `minutes` apart.
    """
    try:
        with file.open(encoding="utf-8") as opened:
            names = opened.readline().strip().split(",")[1:]
            dates = [line.partition(",")[0] for line in opened if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    if not names or not dates:
        raise UsageError(f"{file} is no series: it has {len(names)} variables and {len(dates)} rows. Restore the file.")
    if target is not None and target not in names:
        raise UsageError(f"{file} has no variable {target}: it has {', '.join(names[:8])}")
    columns = range(1, len(names) + 1) if target is None else [names.index(target) + 1]
    try:
        times = np.array(dates, dtype="datetime64[m]")
        values = np.loadtxt(file, delimiter=",", skiprows=1, usecols=columns, ndmin=2, encoding="utf-8")
    except ValueError as error:
        raise UsageError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None
    absent = np.flatnonzero(~np.isfinite(values).all(1))
    if len(absent):
        raise UsageError(f"{file} has a gap: a value at {dates[absent[0]]} is no finite number")
    gaps = np.flatnonzero(np.diff(times) != minutes * MINUTE)
    if len(gaps):
        after, before = dates[gaps[0] + 1], dates[gaps[0]]
        raise UsageError(f"{file} has a gap: {after} follows {before}, and rows are {minutes} minutes apart")
    return times, values


def borders(rows: int, name: str) -> tuple[int, int, int]:
    """Return the rows at which training, validation and test end.

    ETT: 12, 4 and 4 months of 30 days. ECL and WTH: 70 %, 10 % and 20 % of the rows. Other series: 60 %, 20 %, 20 %.
    """
    if name.startswith("ETT"):
        month = MONTH * 24 * 60 // RELEASED[name].minutes
        return 12 * month, 16 * month, 20 * month
    if name in RELEASED:
        return int(rows * 0.7), rows - int(rows * 0.2), rows
    return rows * 6 // 10, rows * 8 // 10, rows


def calendar(times: Any) -> Any:
    """Return where each time is in its hour, day, week, month and year, from -0.5 to 0.5: float32 (rows, FEATURES)."""
    days, months, years = (times.astype(f"datetime64[{unit}]") for unit in ("D", "M", "Y"))
    minute = (times.astype("datetime64[m]") - days).astype(int)
    weekday = (days.astype(int) + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    features = (
        minute % 60 / 59,
        minute // 60 / 23,
        weekday / 6,
        (days - months.astype("datetime64[D]")) / DAY / 30,
        (days - years.astype("datetime64[D]")) / DAY / 365,
    )
    return np.stack(features, 1).astype(np.float32) - np.float32(0.5)


class Windows:
    """A split: item i is (history, known, future), float32.

    Targets, (horizon, variables), lie within the rows `first` to `last` and in no other split's; the history, (length,
    variables), is the rows before them, which at a split's start may be those of the split before. `known` is the
    calendar of both, (length + horizon, features).
    """

    def __init__(self, values: Any, known: Any, first: int, last: int, length: int, horizon: int) -> None:
        self.values, self.known = values, known
        self.first, self.length, self.horizon = max(first, length), length, horizon
        self.count = max(0, last - horizon - self.first + 1)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> tuple[Any, Any, Any]:
        if not 0 <= index < self.count:
            raise IndexError(f"window {index} of {self.count}")
        now = self.first + index
        past, end = now - self.length, now + self.horizon
        return self.values[past:now], self.known[past:end], self.values[now:end]
