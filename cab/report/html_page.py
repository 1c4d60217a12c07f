"""The report as one HTML page. It works without network, server or framework."""

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
from cab.analysis.settings import settings_of
from cab.analysis.statuses import failures, status_counts
from cab.report import notes
from cab.report.efficiency import efficiency_html
from cab.report.export import write_file
from cab.report.html_table import html_table
from cab.report.plot import plot_data
from cab.report.published import published_html, published_lines

if TYPE_CHECKING:
    from pandas import DataFrame

# nothing is fetched, whatever text the rows contain
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
# the plot's buttons: data-show -> verb
_SHOW_BUTTONS = {"all": "show", "none": "hide"}


def write_page(rows: "DataFrame", environments: "DataFrame", path: Path) -> None:
    """Write the page to `path`, the whole file or nothing."""
    boards = [] if rows.empty else leaderboard(rows, environments)
    if not boards:
        body = [f"<p class='note'>{escape(notes.EMPTY)}</p>"]
    else:
        body = [
            *_summary(rows),
            *_boards(boards),
            *_plot(boards),
            *efficiency_html(efficiency_lengths(rows), growths(rows)),
            *published_html(boards),
            *_statuses(rows),
            *_environments(environments),
            "<h2>Methods</h2><ul>",
            *(f"<li>{escape(method)}</li>" for method in notes.methods(boards)),
            "</ul>",
        ]
    folder = Path(__file__).parent
    style, script = (folder / "html_page.css").read_text("utf-8"), (folder / "html_page.js").read_text("utf-8")
    write_file(
        path,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_CONTENT_SECURITY_POLICY}">
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
    """Yield a sentence: how much was measured, when, and how it ended."""
    measured = rows[rows["grade"] != "floor"]
    cases, mechanisms = measured["case_id"].nunique(), measured["mechanism"].nunique()
    dates = sorted(str(time)[:10] for time in rows["time"].dropna())
    when = ""
    if dates:
        when = f", measured {dates[0]}" + (f" to {dates[-1]}" if dates[0] != dates[-1] else "")
    chips = " ".join(
        f"<span class='chip {status}'>{count.rows} {status}</span>" for status, count in status_counts(rows).items()
    )
    counts = f"{cases:,} {'case' if cases == 1 else 'cases'}"
    counts += f" of {mechanisms} {'mechanism' if mechanisms == 1 else 'mechanisms'}"
    yield f"<p class='quiet'>{counts}{escape(when)}. Metrics asked for: {chips}</p>"


def _boards(boards: Sequence[Board]) -> Iterator[str]:
    """Yield every board, with a choice for each property that tells boards apart."""
    yield "<h2>Leaderboards</h2>"
    properties = _distinguishing_properties(boards)
    if properties:
        # the page opens with scores, if there are any, and with the board that has most lines
        first = boards.index(max(boards, key=lambda board: (board.has_scores, len(board.lines))))
        yield "<div class='choices' id='boards-choices'>"
        for name, values in properties.items():
            options = "".join(_option(value, selected=value == values[first]) for value in dict.fromkeys(values))
            label = escape(name.replace("_", " "))
            select = f"<select name='{_data_key(name)}'><option value=''>all</option>{options}</select>"
            yield f"<label>{label}{select}</label>"
        yield "</div>"
    for i, board in enumerate(boards):
        data = " ".join(f"data-{_data_key(name)}='{escape(values[i])}'" for name, values in properties.items())
        yield f"<article class='board' {data}>"
        yield f"<h3>{escape(notes.title([board]))}</h3>"
        subtitle = [notes.conditions(board), board.machine]
        yield f"<p class='quiet'>{escape(' · '.join(text for text in subtitle if text))}</p>"
        yield from html_table(board)
        yield "<ul class='quiet'>"
        yield from (f"<li>{escape(note)}</li>" for note in [*notes.legend([board]), *published_lines(board)])
        yield "</ul></article>"


def _option(text: str, selected: bool) -> str:
    return f"<option value='{escape(text)}'{' selected' if selected else ''}>{escape(text)}</option>"


def _distinguishing_properties(boards: Sequence[Board]) -> dict[str, list[str]]:
    """Return name -> the value of each board, for the properties that boards are chosen by.

    A property is left out where the ones before it already tell the same boards apart.
    """
    properties: dict[str, list[str]] = {}
    differing = notes.settings_that_differ(boards)
    for name in ("task", "pattern", "length", "pass", *QUESTION, "machine"):
        if name in ("n", "m") or name in properties:
            continue
        values = [_property(name, board, differing) for board in boards]
        told_apart = len(set(zip(*properties.values(), strict=True))) if properties else 1
        if len(set(zip(*properties.values(), values, strict=True))) > told_apart:
            properties[name] = values
    return properties


def _property(name: str, board: Board, differing: dict[str, str]) -> str:
    if name == "machine":
        return board.machine or "unknown"
    if name == "length":
        return notes.lengths(board.question)
    if name == "settings":
        return differing[settings_of(board)] or "none"
    value = board.question[name]
    return "none" if value in (None, "") else str(value)


def _data_key(name: str) -> str:
    """Return the name of a data attribute, which JavaScript would otherwise write in another way."""
    return name.replace("_", "")


def _plot(boards: Sequence[Board]) -> Iterator[str]:
    from plotly.offline import get_plotlyjs

    data = plot_data(boards, name_machines=len({board.machine for board in boards}) > 1)
    if not data["views"]:
        return
    yield "<h2>Cost against length</h2>"
    names = [view["name"] for view in data["views"]]
    options = "".join(f"<option value='{i}'>{escape(name)}</option>" for i, name in enumerate(names))
    yield "<div class='choices'>"
    yield f"<label>question<select id='plot-view'>{options}</select></label>"
    yield "<label>metric<select id='plot-metric'></select></label>"
    for which, verb in _SHOW_BUTTONS.items():
        yield f"<button type='button' data-show='{which}'>{verb} all</button>"
    yield "</div><p class='quiet' id='plot-note'></p><div id='plot' role='img' aria-label='cost against length'></div>"
    yield f"<script type='application/json' id='plot-data'>{_json(data)}</script>"
    yield f"<script>{get_plotlyjs()}</script>"


def _json(data: Any) -> str:
    """Write JSON in which no HTML parser sees a tag."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _statuses(rows: "DataFrame") -> Iterator[str]:
    yield "<h2>Statuses</h2><div class='scroll'><table><thead><tr><th scope='col'>status</th>"
    yield "<th scope='col' class='number'>metrics</th><th scope='col' class='number'>cases</th></tr></thead><tbody>"
    for status, count in status_counts(rows).items():
        yield f"<tr><th scope='row' class='{status}'>{status}</th><td class='number'>{count.rows:,}</td>"
        yield f"<td class='number'>{count.cases:,}</td></tr>"
    yield "</tbody></table></div>"
    listed = failures(rows)
    if listed:
        yield "<h3>Reasons</h3><div class='scroll'><table><thead><tr><th scope='col'>status</th>"
        yield "<th scope='col' class='number'>metrics</th><th scope='col'>mechanisms</th>"
        yield "<th scope='col'>reason</th></tr></thead><tbody>"
        for failure in listed:
            yield f"<tr><th scope='row' class='{failure.status}'>{failure.status}</th>"
            yield f"<td class='number'>{failure.rows:,}</td><td>{escape(', '.join(failure.mechanisms))}</td>"
            yield f"<td class='reason'>{escape(failure.reason)}</td></tr>"
        yield "</tbody></table></div>"


def _environments(environments: "DataFrame") -> Iterator[str]:
    if environments.empty:
        return
    columns = records(environments)
    names = [name for name in columns[0] if any(column[name] not in (None, "") for column in columns)]
    yield "<h2>Environments</h2><div class='scroll'><table class='environments'><tbody>"
    for name in names:
        values = "".join(f"<td>{escape('' if column[name] is None else str(column[name]))}</td>" for column in columns)
        yield f"<tr><th scope='row'>{escape(name.replace('_', ' '))}</th>{values}</tr>"
    yield "</tbody></table></div>"
