"""One offline page of a history: every case on every machine, with its changes, commits and environments."""

import base64
import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cab.paths import write_whole
from cab.tracking.findings import Finding
from cab.tracking.history import Series

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 62rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .15rem .7rem .15rem 0; text-align: left; vertical-align: top; }
canvas { width: 100%; height: 160px; border: 1px solid #ccc; } h3 { margin-bottom: .2rem; font-size: 1rem; }
.note { color: #555; min-height: 1.4em; } .open { color: #a00; } input { width: 24rem; max-width: 100%; }
"""
_MACHINE = ("host", "machine", "cpu", "cores", "gpu", "device")  # facts that tell machines apart


def write_page(
    path: Path, series: Sequence[Series], findings: Sequence[Finding], facts: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the page. Names are data: whatever is in them, nothing of it is markup or script.

    Environments of one machine follow one another in a chart, and where one ends a line says what became different.
    """
    script = Path(__file__).with_name("page.js").read_text()
    commits = {name: number for number, name in enumerate(dict.fromkeys(c for each in series for c in each.commits))}
    charts = [
        _chart(name, metric, machine, group, findings, facts, commits)
        for (name, metric, machine), group in _by_machine(series, facts).items()
    ]
    # `<` would end the element whatever the JSON says
    data = json.dumps({"commits": list(commits), "charts": charts}).replace("<", "\\u003c")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (_STYLE, script)]
    policy = f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; base-uri 'none'"
    write_whole(
        path,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>cab: history of speed</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>History of speed</h1>
<p>{len(charts)} charts, {sum(len(each.values) for each in series):,} points of {len(commits):,} commits. A red line is
an increase, a green one a decrease, a shaded stretch a drift, a dashed line another environment of the same machine.
Point at a chart for the commit.</p>
<h2>Changes</h2>
{_table(findings)}
<h2>Cases</h2>
<p><input id="filter" placeholder="a part of a name" aria-label="only charts whose name holds this"></p>
<div id="charts"></div>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
""",
    )


def _by_machine(
    series: Iterable[Series], facts: Mapping[str, Mapping[str, Any]]
) -> dict[tuple[str, str, str], list[Series]]:
    groups: dict[tuple[str, str, str], list[Series]] = {}
    for each in series:
        known = facts.get(each.environment)
        machine = ", ".join(str(known[key]) for key in _MACHINE if known.get(key)) if known else each.environment
        groups.setdefault((each.case, each.metric, machine), []).append(each)
    return {key: sorted(group, key=lambda each: each.since) for key, group in groups.items()}


def _chart(
    name: str,
    metric: str,
    machine: str,
    group: Sequence[Series],
    findings: Sequence[Finding],
    facts: Mapping[str, Mapping[str, Any]],
    numbers: Mapping[str, int],
) -> dict[str, Any]:
    commits: list[int] = []
    values: list[float] = []
    marks: list[dict[str, Any]] = []
    for number, each in enumerate(group):
        if number:
            became = _difference(facts.get(group[number - 1].environment, {}), facts.get(each.environment, {}))
            marks.append({"kind": "environment", "at": len(commits), "text": f"another environment: {became}"})
        places = {commit: len(commits) + place for place, commit in enumerate(each.commits)}
        for found in findings:
            if (found.case, found.metric, found.environment) == each.key and found.commit in places:
                at = places[found.before if found.kind == "drift" else found.commit]
                mark = {"kind": found.kind, "at": at, "end": places[found.commit], "share": found.share}
                marks.append({**mark, "text": found.described})
        commits += [numbers[commit] for commit in each.commits]
        values += each.values
    return {
        "name": name,
        "metric": metric,
        "machine": machine,
        "unit": group[0].unit,
        "commits": _packed("i", commits),
        "values": _packed("f", values),
        "marks": marks,
    }


def _packed(kind: str, numbers: Sequence[float]) -> str:
    """Return numbers of four bytes each in base64: half a million of them as text would take seconds."""
    packed = array(kind, numbers)
    assert packed.itemsize == 4
    return base64.b64encode(packed.tobytes()).decode()


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return ", ".join(f"{key} {before.get(key)} -> {after.get(key)}" for key in changed) or "nothing is known of it"


def _table(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>None.</p>"
    rows = [
        f"<tr{' class=open' if each.open else ''}><td>{escape(each.case)}<td>{escape(each.metric)}"
        f"<td>{escape(each.environment)}<td>{escape(each.described)}<td>{each.p:.3g}</tr>"
        for each in sorted(findings, key=lambda each: not each.open)
    ]
    return f"<table><tr><th>case<th>metric<th>environment<th>change<th>p</tr>{''.join(rows)}</table>"
