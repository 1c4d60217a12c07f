"""The report as one page that needs nothing else: no network, no server, no framework."""

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.analysis.efficiency_length import efficiency_lengths
from cab.analysis.growth import growths
from cab.analysis.leaderboard import Board
from cab.analysis.questions import QUESTION, records
from cab.analysis.ranking import leaderboard
from cab.report import notes, published
from cab.report.export import write
from cab.report.markup import table
from cab.report.plot import plot_data
from cab.report.winning import winning_html

if TYPE_CHECKING:
    from pandas import DataFrame

# nothing is fetched, whatever the data holds
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"

_SHOW = {"all": "show", "none": "hide"}


def write_page(rows: "DataFrame", environments: "DataFrame", path: Path) -> None:
    """Write the page to `path`, whole or not at all."""
    boards = [] if rows.empty else leaderboard(rows, environments)
    if not boards:
        body = [f"<p class='note'>{escape(notes.EMPTY)}</p>"]
    else:
        body = [
            *_summary(rows),
            *_boards(boards),
            *_plot(boards),
            *winning_html(efficiency_lengths(rows), growths(rows)),
            *published.html(boards),
        ]
        body += [*_statuses(rows), *_environments(environments)]
        body += ["<h2>Methods</h2><ul>", *(f"<li>{escape(m)}</li>" for m in notes.methods(boards)), "</ul>"]
    here = Path(__file__).parent
    style, script = (here / "page.css").read_text("utf-8"), (here / "page.js").read_text("utf-8")
    write(
        path,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>cab: attention mechanisms</title>
<style>{style}</style>
</head>
<body>
<h1>Which attention mechanism, for which pattern, at which length, and at what cost</h1>
{chr(10).join(body)}
<script>{script}</script>
</body>
</html>
""",
    )


def _summary(rows: "DataFrame") -> Iterator[str]:
    counts = notes.status_counts(rows)
    measured = rows[rows["grade"] != "floor"]
    cases, mechanisms = measured["case_id"].nunique(), measured["mechanism"].nunique()
    times = sorted(str(time)[:10] for time in rows["time"].dropna())
    when = f", measured {times[0]}" + (f" to {times[-1]}" if times[0] != times[-1] else "") if times else ""
    chips = " ".join(f"<span class='chip {s}'>{n} {s}</span>" for s, (n, _) in counts.items())
    many = f"{cases:,} case{'s' * (cases > 1)} of {mechanisms} mechanism{'s' * (mechanisms > 1)}"
    yield f"<p class='quiet'>{many}{escape(when)}. Metrics asked for: {chips}</p>"


def _boards(boards: Sequence[Board]) -> Iterator[str]:
    yield "<h2>Leaderboards</h2>"
    dimensions = _dimensions(boards)
    if dimensions:
        # the page opens with what most was asked about
        first = boards.index(max(boards, key=lambda board: (board.scores, len(board.lines))))
        yield "<div class='choices' id='boards-choices'>"
        for name, values in dimensions.items():
            options = "".join(
                f"<option value='{escape(v)}'{' selected' if v == values[first] else ''}>{escape(v)}</option>"
                for v in dict.fromkeys(values)
            )
            word = escape(name.replace("_", " "))
            yield f"<label>{word}<select name='{_key(name)}'><option value=''>all</option>{options}</select></label>"
        yield "</div>"
    for position, board in enumerate(boards):
        data = " ".join(f"data-{_key(name)}='{escape(values[position])}'" for name, values in dimensions.items())
        yield f"<article class='board' {data}>"
        yield f"<h3>{escape(notes.title(board))}</h3>"
        about = [notes.conditions(board), board.machine]
        yield f"<p class='quiet'>{escape(' · '.join(word for word in about if word))}</p>"
        yield from table(board)
        yield "<ul class='quiet'>"
        yield from (f"<li>{escape(note)}</li>" for note in [*notes.legend([board]), *published.lines(board)])
        yield "</ul></article>"


def _dimensions(boards: Sequence[Board]) -> dict[str, list[str]]:
    """Return what boards are chosen by: name -> the value of each board, less what the others before it decide."""
    chosen: dict[str, list[str]] = {}
    differing = notes.settings_that_differ(boards)
    for name in ("task", "pattern", "length", "pass", *QUESTION, "machine"):
        if name not in ("n", "m") and name not in chosen:
            values = [_value(name, board, differing) for board in boards]
            before = len(set(zip(*chosen.values(), strict=True))) if chosen else 1
            if len(set(zip(*chosen.values(), values, strict=True))) > before:
                chosen[name] = values
    return chosen


def _value(name: str, board: Board, differing: dict[str, str]) -> str:
    if name == "machine":
        return board.machine or "unknown"
    if name == "length":
        return notes.lengths(board.question)
    if name == "settings":
        return differing[board.question["settings"] or "{}"] or "none"
    value = board.question[name]
    return "none" if value in (None, "") else str(value)


def _key(name: str) -> str:
    return name.replace("_", "")


def _plot(boards: Sequence[Board]) -> Iterator[str]:
    from plotly.offline import get_plotlyjs

    data = plot_data(boards, machines=len({board.machine for board in boards}) > 1)
    if not data["views"]:
        return
    yield "<h2>Cost against length</h2>"
    names = [view["name"] for view in data["views"]]
    options = "".join(f"<option value='{at}'>{escape(name)}</option>" for at, name in enumerate(names))
    yield "<div class='choices'>"
    yield f"<label>question<select id='plot-view'>{options}</select></label>"
    yield "<label>metric<select id='plot-metric'></select></label>"
    yield from (f"<button type='button' data-show='{which}'>{word} all</button>" for which, word in _SHOW.items())
    yield "</div><p class='quiet' id='plot-note'></p><div id='plot' role='img' aria-label='cost against length'></div>"
    yield f"<script type='application/json' id='plot-data'>{_json(data)}</script>"
    yield f"<script>{get_plotlyjs()}</script>"


def _json(data: Any) -> str:
    """Write JSON that no HTML parser takes for a tag."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _statuses(rows: "DataFrame") -> Iterator[str]:
    yield "<h2>Statuses</h2><div class='scroll'><table><thead><tr><th scope='col'>status</th>"
    yield "<th scope='col' class='number'>metrics</th><th scope='col' class='number'>cases</th></tr></thead><tbody>"
    for status, (metrics, cases) in notes.status_counts(rows).items():
        yield f"<tr><th scope='row' class='{status}'>{status}</th><td class='number'>{metrics:,}</td>"
        yield f"<td class='number'>{cases:,}</td></tr>"
    yield "</tbody></table></div>"
    failures = notes.failures(rows)
    if failures:
        yield "<h3>Reasons</h3><div class='scroll'><table><thead><tr><th scope='col'>status</th>"
        yield "<th scope='col' class='number'>metrics</th><th scope='col'>mechanisms</th>"
        yield "<th scope='col'>reason</th></tr></thead><tbody>"
        for each in failures:
            names = ", ".join(each.mechanisms)
            yield f"<tr><th scope='row' class='{each.status}'>{each.status}</th><td class='number'>{each.rows:,}</td>"
            yield f"<td>{escape(names)}</td><td class='reason'>{escape(each.reason)}</td></tr>"
        yield "</tbody></table></div>"


def _environments(environments: "DataFrame") -> Iterator[str]:
    if environments.empty:
        return
    found = records(environments)
    names = [name for name in found[0] if any(each[name] not in (None, "") for each in found)]
    yield "<h2>Environments</h2><div class='scroll'><table class='environments'><tbody>"
    for name in names:
        values = "".join(f"<td>{escape('' if each[name] is None else str(each[name]))}</td>" for each in found)
        yield f"<tr><th scope='row'>{escape(name.replace('_', ' '))}</th>{values}</tr>"
    yield "</tbody></table></div>"
