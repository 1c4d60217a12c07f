"""The tidy table as a reader of pandas wants it: times and categories as such, and what is JSON in columns."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cab.contracts.case import DTYPES, LEVELS, PASSES, STATUSES
from cab.contracts.pattern import Pattern

if TYPE_CHECKING:
    import pandas as pd

# columns with few values -> their order, where it is not the alphabet's
CATEGORIES: dict[str, tuple[str, ...]] = {
    "pattern": tuple(Pattern.__members__),
    "status": tuple(reversed(STATUSES)),
    "level": LEVELS,
    "pass": PASSES,
    "dtype": DTYPES,
    "scale": ("quick", "small", "paper"),
    **dict.fromkeys(("mechanism", "task", "grade", "device", "backend", "metric", "unit"), ()),
    **dict.fromkeys(("data_source", "protocol", "split"), ()),
}


def typed(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return a tidy table with `time` as UTC timestamps, and the columns of CATEGORIES as categories that occur."""
    import pandas as pd

    columns: dict[str, Any] = {"time": pd.to_datetime(rows["time"], utc=True, errors="coerce", format="ISO8601")}
    for name, first in CATEGORIES.items():
        present = [str(value) for value in rows[name].dropna().unique()]
        order = [value for value in first if value in present]
        columns[name] = pd.Categorical(rows[name], order + sorted(value for value in present if value not in first))
    return rows.assign(**columns)


def unpacked(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return a tidy table with a column for each hyper-parameter and setting, named as on the command line.

    The columns `params` and `settings` go: `mechanism.window`, `task.pairs`, `training.lr`, `threads`, ... stand in
    their places. Where a row has no such key, its cell is missing.
    """
    import pandas as pd

    parts = []
    for column, prefix in (("params", "mechanism."), ("settings", "")):
        texts = rows[column].fillna("{}")
        values = {text: dict(_leaves(json.loads(text), prefix)) for text in texts.unique()}
        names = dict.fromkeys(name for each in values.values() for name in each)
        of_column = {
            name: pd.Series([values[text].get(name) for text in texts], index=rows.index, dtype=object).convert_dtypes()
            for name in names
        }
        parts.append(pd.DataFrame(of_column, index=rows.index))
    return pd.concat([rows.drop(columns=["params", "settings"]), *parts], axis=1)


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield "task.others" if prefix + name == "others" else prefix + name, value
