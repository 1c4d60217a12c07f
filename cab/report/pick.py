"""`cab pick` in the terminal and as JSON: what fits, in groups not told apart, and why the others fell out."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from cab.analysis.pick import UNKNOWN_SCORE, Candidate, Pick
from cab.analysis.ranking import CONTROL_MECHANISMS
from cab.analysis.selection import Limit
from cab.plugins.cards import Card
from cab.plugins.registry import cards_of
from cab.report import notes
from cab.report.units import DisplayUnit, display_unit

if TYPE_CHECKING:
    from rich.console import Console

_LABEL_WIDTH = 36
MOST_REASONS = 12


def print_pick(pick: Pick, limits: Sequence[Limit], pattern: str, console: "Console") -> None:
    """Print the candidates, the best first, then why each other one fell out, and how to measure what is missing."""
    names = _cost_names(pick, limits)
    conditions = " ".join(f"{name}={value}" for name, value in pick.conditions.items())
    console.print(Text(f"{pattern}, n = {pick.n:,}: {conditions}; {pick.machine}", style="dim"))
    units = {name: _unit(pick, name) for name in names}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    table.add_column("mechanism", no_wrap=True)
    has_scores = pick.metric is not None and pick.metric is not pick.cost
    if has_scores and pick.metric is not None:
        score_unit = display_unit(pick.metric.unit, [c.score.value for c in pick.fitting if c.score])
        table.add_column(score_unit.header(pick.metric.name), justify="right", no_wrap=True)
    for name in names:
        table.add_column(units[name].header(name), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for i, candidate in enumerate(pick.fitting):
        cells = [_cost_text(candidate, name, units[name], limits) for name in names]
        if has_scores:
            score = candidate.score
            assert score is not None and score.value is not None
            arm = score_unit.half_width(score.value, score.low, score.high)
            cells.insert(0, f"{score_unit.text(score.value)} {arm}")
        label = notes.shortened(candidate.label, _LABEL_WIDTH)
        grade = "extension" if candidate.line.grade == "extension" else ""
        last = i + 1 == len(pick.fitting) or pick.fitting[i + 1].group != candidate.group
        scored = f"score of {candidate.scored_as}" if candidate.scored_as else ""
        note = ", ".join(filter(None, (grade, "interpolated" if candidate.interpolated else "", scored)))
        table.add_row(*map(Text, (str(candidate.group + 1), label, *cells, note)), end_section=last)
    if pick.fitting:
        console.print(table)
        note = "one number: no two are told apart, because their 95 % intervals overlap; the cheaper comes first"
        console.print(Text(note, style="dim"))
    else:
        console.print(Text("nothing fits", style="bold"))
    console.print(Text(f"quality: {pick.quality}", style="dim"))
    if pick.left_out:
        console.print(Text(f"measured too, and left out: {'; '.join(pick.left_out)}", style="dim"))
    reasons: dict[str, list[str]] = {}
    for candidate in pick.out:
        reasons.setdefault(candidate.why_not, []).append(candidate.label)
    for reason, labels in list(reasons.items())[:MOST_REASONS]:
        console.print(Text(f"out, {reason}: {', '.join(labels)}", style="dim"))
    if len(reasons) > MOST_REASONS:
        console.print(Text(f"out, for {len(reasons) - MOST_REASONS} more reasons: --json has all", style="dim"))
    for command in missing_commands(pick, pattern):
        console.print(Text(f"to measure what is missing: {command}", style="dim"), soft_wrap=True)


def pick_json(pick: Pick, limits: Sequence[Limit], pattern: str) -> str:
    """Return the same as JSON, in the units of the rows."""

    def entry(candidate: Candidate) -> dict[str, Any]:
        costs = {
            name: {"value": cell.value, "low": cell.low, "high": cell.high}
            for name, cell in candidate.costs.items()
            if cell.value is not None
        }
        score = candidate.score
        facts: dict[str, Any] = {"mechanism": candidate.line.mechanism, "params": candidate.line.params}
        facts |= {"backend": candidate.line.backend, "grade": candidate.line.grade}
        facts |= {"interpolated": candidate.interpolated, "costs": costs}
        facts |= {"scored_as": candidate.scored_as}
        return facts | {"score": score and {"value": score.value, "low": score.low, "high": score.high}}

    data = {
        "pattern": pattern,
        "seq_len": pick.n,
        "conditions": pick.conditions,
        "machine": pick.machine,
        "limits": {limit.metric: limit.value for limit in limits},
        "quality": pick.quality,
        "left_out": pick.left_out,
        "ordered_by": pick.metric and pick.metric.name,
        "fitting": [{"group": candidate.group + 1, **entry(candidate)} for candidate in pick.fitting],
        "out": [{"why": candidate.why_not, **entry(candidate)} for candidate in pick.out],
        "missing": missing_commands(pick, pattern),
    }
    return json.dumps(data, indent=1, allow_nan=False)


def missing_commands(pick: Pick, pattern: str) -> list[str]:
    """Return the commands that measure what mechanisms of this pattern lack: a cost at this length, or a score."""
    commands = []
    if missing := _without_cost(pick, pattern):
        conditions = " ".join(f"{name}={value}" for name, value in pick.conditions.items())
        asked = f"task=speed pattern={pattern} seq_len={pick.n} {conditions}"
        commands.append(f"cab run mechanism={','.join(missing)} {asked}")
    unscored = dict.fromkeys(c.line.mechanism for c in pick.out if c.why_not == UNKNOWN_SCORE)
    if unscored and pick.scored_on:
        commands.append(f"cab run mechanism={','.join(unscored)} task={','.join(pick.scored_on)} pattern={pattern}")
    return commands


def _without_cost(pick: Pick, pattern: str) -> list[str]:
    measured = {c.line.mechanism for c in (*pick.fitting, *pick.out) if c.costs and not c.interpolated}
    able = [
        name
        for name, card in cards_of("mechanism").items()
        if isinstance(card, Card)
        and isinstance(card.facts["patterns"], dict)
        and card.facts["patterns"].get(pattern) in ("native", "extension")
    ]
    return [name for name in able if name not in measured and name not in CONTROL_MECHANISMS]


def _cost_names(pick: Pick, limits: Sequence[Limit]) -> list[str]:
    """Name the costs to show: what candidates are ordered by, what is limited, and memory."""
    names = dict.fromkeys([pick.cost.name, *(limit.metric for limit in limits), "peak_allocated"])
    return [name for name in names if any(name in candidate.costs for candidate in (*pick.fitting, *pick.out))]


def _unit(pick: Pick, name: str) -> DisplayUnit:
    candidates = pick.fitting or pick.out
    units = {"latency": "seconds", pick.cost.name: pick.cost.unit, "flops": "FLOP", "energy": "joules"}
    default = "bytes" if name.startswith(("peak", "bytes", "decode")) else ""
    values = [candidate.costs[name].value for candidate in candidates if name in candidate.costs]
    return display_unit(units.get(name, default), values)


def _cost_text(candidate: Candidate, name: str, unit: DisplayUnit, limits: Sequence[Limit]) -> str:
    cell = candidate.costs.get(name)
    if cell is None or cell.value is None:
        return ""
    above = any(limit.metric == name and cell.interval[1] > limit.value for limit in limits)
    arm = unit.relative_half_width(cell.value, cell.low, cell.high)
    return f"{unit.text(cell.value)} {arm}{' (its interval exceeds the limit)' if above else ''}".strip()
