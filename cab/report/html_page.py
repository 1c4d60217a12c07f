"""The report as one HTML page. It works without network, server or framework, and without scripts as static boards."""

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from cab.analysis.leaderboard import Board
from cab.analysis.questions import records
from cab.analysis.results import Results
from cab.analysis.statuses import status_counts
from cab.report import aggregates, notes, published
from cab.report.evidence import Evidence
from cab.report.export import write_file
from cab.report.html_table import html_table
from cab.report.page_data import legend, packed, page_data


def write_page(results: Results, path: Path, evidence: Evidence | None = None) -> None:
    """Write the page to `path`, the whole file or nothing."""
    folder = Path(__file__).parent
    style, script = (folder / "html_page.css").read_text("utf-8"), (folder / "html_page.js").read_text("utf-8")
    boards = results.boards
    body = (
        list(_body(results, evidence or Evidence()))
        if boards
        else [f"<main><h1>cab</h1><p>{escape(notes.EMPTY)}</p></main>"]
    )
    write_file(
        path,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">
<title>cab: attention mechanisms</title>
<style>{style}</style>
</head>
<body>
{chr(10).join(body)}
{f"<script>{script}</script>" if boards else ""}
</body>
</html>
""",
    )


def _policy(style: str, script: str) -> str:
    """Return a policy under which nothing is fetched, and only this style and this script count, whatever rows hold."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _body(results: Results, evidence: Evidence) -> Iterator[str]:
    data = page_data(results.boards, results.rows, results.efficiency_lengths, results.machines, evidence)
    data |= {
        "summary": _summary(results),
        "commits": _commits(results),
        "legend": legend(results.boards),
        "methods": notes.methods(results.boards),
        "statuses": [[status, count.rows, count.cases] for status, count in status_counts(results.rows).items()],
        "environments": [
            {name: str(value) for name, value in each.items() if value not in (None, "")}
            for each in records(results.used_environments)
        ],
        "publishedColumns": ["benchmark", "source", "mechanism", "pattern", "task", "metric", "value", "unit", "note"],
        "publishedAbout": published.ABOUT,
        "aggregateAbout": aggregates.ABOUT,
        "cabAbout": aggregates.ABOUT_CAB,
    }
    yield "<div id='app'></div>"
    yield "<noscript><main><h1>Which attention mechanism, for which pattern, at which length, and at what cost</h1>"
    yield f"<p>{escape(_summary(results))}. With scripts, this page filters, sorts and draws.</p>"
    yield from _static_boards(results.boards)
    yield "</main></noscript>"
    yield f"<script type='application/octet-stream' id='data'>{packed(data)}</script>"


def _commits(results: Results) -> list[str]:
    """Return the commits that the rows were measured at, short; a floor has none of its own."""
    commits = results.rows["commit"][results.rows["grade"] != "floor"].dropna()
    return sorted({str(commit)[:7] for commit in commits if commit})


def _summary(results: Results) -> str:
    """Say how much was measured, where, when and how it ended."""
    measured = results.rows[results.rows["grade"] != "floor"]
    counts = status_counts(results.rows)
    ok, cases = counts["ok"].cases if "ok" in counts else 0, measured["case_id"].nunique()
    words = [f"{ok:,}/{cases:,} cases ok"]
    commits = _commits(results)
    if commits:
        words.append(f"commit {commits[0]}" if len(commits) == 1 else f"{len(commits)} commits")
    dates = sorted(str(time)[:10] for time in measured["time"].dropna())
    if dates and len(dates[0]) == 10:
        words.append(dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}")
    return " · ".join([*words, *results.shown_machines])  # machines last: their names are long, and a line is cut


def _static_boards(boards: list[Board]) -> Iterator[str]:
    """Yield a table of contents and, of each task and pattern, the longest board with most lines."""
    chosen: dict[tuple[Any, Any], Board] = {}
    for board in boards:
        key = (board.question["task"], board.question["pattern"])
        best = chosen.get(key)
        if best is None or (board.question["n"], len(board.lines)) > (best.question["n"], len(best.lines)):
            chosen[key] = board
    yield "<nav aria-label='boards'><ul>"
    for i, board in enumerate(chosen.values()):
        yield f"<li><a href='#board-{i}'>{escape(notes.title([board]))}</a></li>"
    yield "</ul></nav>"
    for i, board in enumerate(chosen.values()):
        yield f"<section id='board-{i}'><h2>{escape(notes.title([board]))}</h2>"
        yield f"<p>{escape(notes.conditions(board))} · {escape(board.machine)}</p>"
        yield from html_table(board)
        yield "</section>"
    yield "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes.legend(boards)) + "</ul>"
