"""Where each mechanism starts to beat softmax, and how its costs grow: in the terminal, on the page, as files."""

from collections import Counter
from collections.abc import Collection, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from cab.analysis.curves import FIXED

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

TITLE = "From which length it beats softmax"
ABOUT = (
    "the length from which the cost lies below softmax's at every longer measured length; between two measured "
    "lengths interpolated on the logs; in brackets where the intervals of both costs let it be (?: open)"
)
GROWTH = "cost ~ n^exponent over the measured lengths, 95 % interval of the fit"
_SHOWN = ("mechanism", "params", "backend", "pattern", "pass", "metric")
_LINE = (*_SHOWN, *(name for name in FIXED if name not in _SHOWN and name != "unit"))


def print_winning(lengths: "DataFrame", growths: "DataFrame", console: "Console") -> None:
    """Print both, one line a mechanism, pattern, pass and metric; nothing where nothing can be said."""
    lines = list(_lines(lengths, growths))
    if not lines:
        return
    table = Table(box=None, pad_edge=False, title=f"\n{TITLE}", title_style="bold", title_justify="left")
    for column in lines[0]:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*(Text(value) for value in line.values()))
    console.print(table)
    for said in (ABOUT, GROWTH):
        console.print(Text(f"  {said}", style="dim"))


def winning_html(lengths: "DataFrame", growths: "DataFrame") -> Iterator[str]:
    """Yield the page's section."""
    lines = list(_lines(lengths, growths))
    if not lines:
        return
    yield f"<h2>{escape(TITLE)}</h2><p class='note'>{escape(ABOUT)}. Exponent: {escape(GROWTH)}.</p>"
    yield "<div class='wide'><table><thead><tr>"
    yield "".join(f"<th scope='col'>{escape(name)}</th>" for name in lines[0])
    yield "</tr></thead><tbody>"
    for line in lines:
        yield "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in line.values()) + "</tr>"
    yield "</tbody></table></div>"


def _lines(lengths: "DataFrame", growths: "DataFrame") -> Iterator[dict[str, str]]:
    """Yield one line of text a curve: against each softmax, and the exponent."""
    against = sorted(set(lengths["against"])) if len(lengths) else []
    found: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in lengths.to_dict("records"):
        found.setdefault(tuple(row[name] for name in _LINE), {})[row["against"]] = row["text"]
    for row in growths.to_dict("records"):
        mark = " faster than declared" if row["agrees"] is False else ""
        text = f"{row['exponent']:.2f} ({row['low']:.2f} to {row['high']:.2f}){mark}"
        found.setdefault(tuple(row[name] for name in _LINE), {})["exponent"] = text
    differs = _differing(found)
    kinds = Counter((mechanism, *rest) for mechanism, params, *rest in found)
    for key in sorted(found, key=lambda key: (*map(str, key[3:6]), *(str(key[i]) for i in differs), key[0])):
        mechanism, params, backend, *rest = key[: len(_SHOWN)]
        several = kinds[mechanism, *key[2:]] > 1
        name = mechanism + (f" {params}" if several else "") + ("" if backend == "eager" else f" {backend}")
        shown = dict(zip(("mechanism", "pattern", "pass", "metric"), (name, *rest), strict=True))
        if differs:
            shown["of"] = ", ".join(f"{_LINE[i].removesuffix('_id')} {key[i]}" for i in differs)
        yield shown | {title: found[key].get(title, "") for title in [*against, "exponent"]}


def _differing(lines: Collection[tuple[Any, ...]]) -> list[int]:
    """Return which parts of a line's question, beyond what is shown, are not the same in all lines of some metric.

    Within a metric, since a latency and a peak of memory are of two environments on one machine.
    """
    by_metric: dict[Any, list[tuple[Any, ...]]] = {}
    for line in lines:
        by_metric.setdefault(line[_SHOWN.index("metric")], []).append(line)
    parts = range(len(_SHOWN), len(_LINE))
    return [i for i in parts if any(len({line[i] for line in alike}) > 1 for alike in by_metric.values())]
