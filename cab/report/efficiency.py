"""From which length each mechanism beats softmax, and how its costs grow, in the terminal."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from cab.analysis.curves import SETTING_COLUMNS

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

TITLE = "From which length it beats softmax"
ABOUT = (
    "the length from which the cost lies below softmax's at every longer measured length; between two measured "
    "lengths interpolated on the logs; in brackets its interval, from the intervals of both costs (?: unbounded)"
)
GROWTH = "cost ~ n^exponent over the measured lengths, 95 % interval of the fit"
# A curve is identified by these columns. The first ones are shown on every line, the others where they differ.
_SHOWN_COLUMNS = ("mechanism", "params", "backend", "pattern", "pass", "metric")
_CURVE_COLUMNS = (*_SHOWN_COLUMNS, *(name for name in SETTING_COLUMNS if name not in (*_SHOWN_COLUMNS, "unit")))
_METRIC = _CURVE_COLUMNS.index("metric")
CurveKey = tuple[Any, ...]  # _CURVE_COLUMNS' values


def print_efficiency(lengths: "DataFrame", growths: "DataFrame", console: "Console") -> None:
    """Print the efficiency lengths and growth exponents, a line for each curve; nothing where there are none.

    `lengths` and `growths` are the tables of `efficiency_lengths` and `growths` in `cab.analysis`.
    """
    lines = list(_lines(lengths, growths))
    if not lines:
        return
    table = Table(box=None, pad_edge=False, title=f"\n{TITLE}", title_style="bold", title_justify="left")
    for column in lines[0]:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*(Text(value) for value in line.values()))
    console.print(table)
    for note in (ABOUT, GROWTH):
        console.print(Text(f"  {note}", style="dim"))


def _lines(lengths: "DataFrame", growths: "DataFrame") -> Iterator[dict[str, str]]:
    """Yield a line for each curve: column title -> text. All lines have the same columns."""
    against = sorted(set(lengths["against"])) if len(lengths) else []
    results: dict[CurveKey, dict[str, str]] = {}  # curve -> column title -> text
    for row in lengths.to_dict("records"):
        results.setdefault(_curve_key(row), {})[row["against"]] = row["text"]
    for row in growths.to_dict("records"):
        disagrees = " faster than declared" if row["agrees"] is False else ""
        exponent = f"{row['exponent']:.2f} ({row['low']:.2f} to {row['high']:.2f}){disagrees}"
        results.setdefault(_curve_key(row), {})["exponent"] = exponent
    differing = _differing_columns(results)
    # how many hyper-parameters a mechanism was measured with, everything else equal
    params_counts = Counter((mechanism, *others) for mechanism, _, *others in results)

    def order(key: CurveKey) -> tuple[str, ...]:
        mechanism, _, _, pattern, pass_, metric = key[: len(_SHOWN_COLUMNS)]
        return str(pattern), str(pass_), str(metric), *(str(key[i]) for i in differing), mechanism

    for key in sorted(results, key=order):
        mechanism, params, backend, pattern, pass_, metric = key[: len(_SHOWN_COLUMNS)]
        label = mechanism
        if params_counts[mechanism, *key[2:]] > 1:
            label += f" {params}"
        if backend != "eager":
            label += f" {backend}"
        line = {"mechanism": label, "pattern": pattern, "pass": pass_, "metric": metric}
        if differing:
            line["of"] = ", ".join(f"{_CURVE_COLUMNS[i].removesuffix('_id')} {key[i]}" for i in differing)
        yield line | {title: results[key].get(title, "") for title in [*against, "exponent"]}


def _curve_key(row: dict[Any, Any]) -> CurveKey:
    return tuple(row[name] for name in _CURVE_COLUMNS)


def _differing_columns(keys: Collection[CurveKey]) -> list[int]:
    """Return the indices of the columns, of those not always shown, in which curves of one metric differ.

    Curves of different metrics are not compared: on one machine a latency and a peak of memory have two environments.
    """
    by_metric: dict[Any, list[CurveKey]] = {}
    for key in keys:
        by_metric.setdefault(key[_METRIC], []).append(key)
    return [
        i
        for i in range(len(_SHOWN_COLUMNS), len(_CURVE_COLUMNS))
        if any(len({key[i] for key in of_metric}) > 1 for of_metric in by_metric.values())
    ]
