"""A comparison as a table in the terminal, as JSON, and as the comment on a change. Names are data, never markup."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

from cab.tracking.compare import Comparison, CountChange
from cab.tracking.verdicts import FINE, NOTHING, REGRESSION, UNPROVEN, Verdict

if TYPE_CHECKING:
    from rich.console import Console

MEANINGS = {
    FINE: "no confirmed regression",
    REGRESSION: "a confirmed regression",
    NOTHING: "nothing could be measured",
    UNPROVEN: "unproven: a control, in which the same code runs on both sides, seems to differ; measure again",
}
_COLUMNS = ("case", "verdict", "change", "95 % interval", "base", "head", "pairs")
_NUMBERS = _COLUMNS[2:]
_MARKS = {ord(mark): f"&#{ord(mark)};" for mark in "&<>|`*_[]@#\\~\u200b"}


def _rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    for name, verdict in {**comparison.verdicts, **comparison.controls}.items():
        seconds = [_time(value) for value in comparison.seconds[name]] if name in comparison.seconds else ["", ""]
        rows.append([name, _said(verdict), *_change(verdict), *seconds, str(verdict.pairs or "")])
    return rows


def _said(verdict: Verdict) -> str:
    return f"{verdict.verdict}: {verdict.reason}" if verdict.reason else verdict.verdict


def _change(verdict: Verdict) -> list[str]:
    if verdict.effect is None:
        return ["", ""]
    change = verdict.effect
    return [f"{change.estimate:+.1%}", f"{change.low:+.1%} to {change.high:+.1%}" if isfinite(change.high) else ""]


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def count_change(name: str, change: CountChange) -> str:
    """Say in one line how a count of a case changed."""
    share = f"{change.share:+.2%}" if isfinite(change.share) else "new"
    return f"{name}: {change.name} {change.base:,.0f} -> {change.head:,.0f} ({share})"


def _versions(comparison: Comparison) -> list[str]:
    return [f"{name} {base} -> {head}" for name, (base, head) in comparison.versions.items()]


def _clocks(comparison: Comparison) -> list[str]:
    """Say at which clock a GPU ran, and what was set apart for a low one."""
    if not comparison.clocks:
        return []
    lines = ["GPU clock: {:.0f} to {:.0f} MHz".format(*comparison.clocks)]
    return lines + [
        f"{name}: {count} pairs of samples at a throttled clock set apart"
        for name, count in comparison.throttled.items()
    ]


def print_comparison(comparison: Comparison, out: "Console") -> None:
    """Print the table, the counts that differ, and what the exit code means."""
    from rich.markup import escape
    from rich.table import Table

    out.print(escape(f"base: {comparison.base.label}\nhead: {comparison.head.label}"), highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    for row in _rows(comparison):
        table.add_row(*(escape(one_line(text)) for text in row))
    out.print(table)
    for name, changes in comparison.counts.items():
        for change in changes:
            out.print(escape(one_line(count_change(name, change))), highlight=False)
    for text in _clocks(comparison):
        out.print(escape(one_line(text)), highlight=False)
    for text in _versions(comparison):
        out.print(escape(f"the environment differs: {one_line(text)}"), highlight=False)
    if comparison.flagged:
        out.print(escape(f"flagged controls: {', '.join(map(one_line, comparison.flagged))}"), highlight=False)
    out.print(escape(f"{MEANINGS[comparison.exit_code]} (exit code {comparison.exit_code})"), highlight=False)


def as_json(comparison: Comparison) -> str:
    """Write everything that was found, for scripts."""
    data: dict[str, Any] = {
        "base": asdict(comparison.base),
        "head": asdict(comparison.head),
        "exit_code": comparison.exit_code,
        "meaning": MEANINGS[comparison.exit_code],
        "cases": {
            name: {**asdict(verdict), "seconds": comparison.seconds.get(name)}
            for name, verdict in comparison.verdicts.items()
        },
        "controls": {name: asdict(verdict) for name, verdict in comparison.controls.items()},
        "counts": {name: [asdict(each) for each in changes] for name, changes in comparison.counts.items()},
        "environment": comparison.environment,
        "versions": comparison.versions,
        "clocks": comparison.clocks,
        "throttled": comparison.throttled,
    }
    return json.dumps(_finite(data), indent=2)


def _finite(value: Any) -> Any:
    """JSON has no infinity: an end of an interval that is not bounded is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def as_comment(comparison: Comparison, command: Sequence[str]) -> str:
    """Write the comment on a change in Markdown: verdict, table, counts, environment and how to repeat it."""
    lines = [f"### Kernel speed: {MEANINGS[comparison.exit_code]}", ""]
    lines += [f"Base {cell(comparison.base.label)}, head {cell(comparison.head.label)}.", ""]
    lines += [
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'|'.join('---:' if name in _NUMBERS else '---' for name in _COLUMNS)}|",
    ]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in _rows(comparison)]
    changes = [count_change(name, change) for name, changes in comparison.counts.items() for change in changes]
    lines += ["", "Counts that differ:", "", *(f"- {cell(text)}" for text in changes)] if changes else []
    facts = ", ".join(f"{key} {value}" for key, value in comparison.environment.items() if value is not None)
    lines += ["", f"Environment: {cell(facts)}."]
    lines += [f"{cell(text)}." for text in _clocks(comparison)]
    lines += [f"It differs between the sides: {cell(text)}." for text in _versions(comparison)]
    lines += ["", f"To repeat it: <code>{as_entities(shlex.join(command))}</code>", ""]
    return "\n".join(lines)


def one_line(text: str) -> str:
    """Return the text with every control character, a newline among them, as a space."""
    return "".join(character if character.isprintable() else " " for character in text)


def cell(text: str) -> str:
    """Return the text for a cell of a Markdown table: nothing in it is markup, a mention, a link or a new line.

    A forge looks for mentions, numbers of issues and addresses when entities have become characters again, so a space
    of no width stands in each.
    """
    broken = re.sub(r"[@#]|:(?=//)|\bwww(?=\.)|\bGH-(?=\d)", "\\g<0>\u200b", one_line(text), flags=re.IGNORECASE)
    return broken.translate(_MARKS)


def as_entities(text: str) -> str:
    """Return the text without markup, as it is to be copied: for `<code>`, where a forge makes no link."""
    return one_line(text).translate(_MARKS)
