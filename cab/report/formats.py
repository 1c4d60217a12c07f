"""Boards as one table in the formats of other tools: Markdown, LaTeX, CSV, HTML, JSON and Parquet; or as a badge.

Markdown, LaTeX and HTML hold numbers as people read them, the others full precision in the units of the rows.
"""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from cab.analysis.leaderboard import COST_UNITS, Board, Line, Metric, metrics_of
from cab.analysis.questions import QUESTION
from cab.errors import UsageError, unknown
from cab.report import notes
from cab.report.badge import badge
from cab.report.derived_columns import DerivedColumn, line_cells
from cab.report.export import csv_of
from cab.report.repeating import line_command
from cab.report.units import DisplayUnit, display_unit

if TYPE_CHECKING:
    from pandas import DataFrame

FORMATS = ("table", "md", "tex", "csv", "html", "parquet", "json", "badge")
_MARKDOWN = re.compile(r"[\\|<>*_`\[\]]")
_TEX = {
    "\\": "\\textbackslash{}", "^": "\\^{}", "~": "\\~{}", "±": "$\\pm$", "≈": "$\\approx$", "–": "--",
    "×": "$\\times$", "<": "$<$", ">": "$>$", "|": "$|$", "≤": "$\\le$", "≥": "$\\ge$", "≠": "$\\ne$",
    "⌊": "$\\lfloor$", "†": "$\\dagger$", "←": "$\\leftarrow$", "…": "\\dots{}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
}  # fmt: skip


Column = Metric | DerivedColumn


def formatted(
    boards: Sequence[Board], name: str, columns: Sequence[str] = (), derived: Mapping[str, DerivedColumn] | None = None
) -> bytes:
    """Return the boards in one of FORMATS but `table`; `columns` names metrics and derived columns, in their order."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    if not boards:
        raise UsageError(notes.EMPTY)
    if name == "badge":
        return badge(max(boards, key=lambda board: (int(board.question["n"]), len(board.lines)))).encode()
    shown = chosen_columns(boards, columns, derived or {})
    if name in ("csv", "json", "parquet"):
        frame = _frame(boards, shown)
        if name == "csv":
            return csv_of(frame).encode()
        if name == "json":
            return (frame.to_json(orient="records", indent=1) + "\n").encode()
        buffer = BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    return write_table(name, *_texts(boards, shown)).encode()


def write_table(form: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts as `md`, `tex` or `html`, with what these formats mean otherwise escaped."""
    writers = {"md": _markdown, "tex": _latex, "html": _html}
    return writers[form](heads, rows)


def chosen_columns(
    boards: Sequence[Board], columns: Sequence[str], derived: Mapping[str, DerivedColumn]
) -> list[Column]:
    """Return the named columns; without names the headlines, the scores and the first metric of each unit of cost.

    `UsageError` for a name that is neither a metric of the boards nor a derived column.
    """
    metrics = {metric.name: metric for metric in metrics_of(boards)}
    accepted: dict[str, Column] = {**derived, **metrics}
    names = [column.partition("=")[0] for column in columns]
    for name in names:
        if name not in accepted:
            raise unknown("column", name, accepted)
    if names:
        return [accepted[name] for name in names]
    first_of_unit = {metric.unit: metric.name for metric in reversed(metrics.values()) if metric.unit in COST_UNITS}
    headlines = {board.headline.name for board in boards}
    return [
        metric
        for name, metric in metrics.items()
        if metric.is_score or name in headlines or first_of_unit.get(metric.unit) == name
    ]


def _question_columns(boards: Sequence[Board]) -> list[str]:
    """Name the columns of the question that tell boards apart."""
    return [name for name in QUESTION if len({str(board.question[name]) for board in boards}) > 1]


def _frame(boards: Sequence[Board], columns: Sequence[Column]) -> "DataFrame":
    import pandas as pd

    rows = []
    for board in boards:
        derived = [(column.name, line_cells(column, board, board.lines)) for column in _derived(columns)]
        for i, line in enumerate(board.lines):
            row = {name: board.question[name] for name in QUESTION} | {"machine": board.machine}
            row |= {
                "rank": line.rank,
                "rank_low": line.ranks and line.ranks[0],
                "rank_high": line.ranks and line.ranks[1],
            }
            row |= {"mechanism": line.mechanism, "params": json.dumps(line.params), "backend": line.backend}
            row |= {"grade": line.grade, "kind": line.kind}
            for metric in _metrics(columns):
                cell = line.cells.get(metric.name)
                row |= {metric.name: cell.value if cell else None, f"{metric.name}_low": cell.low if cell else None}
                row |= {
                    f"{metric.name}_high": cell.high if cell else None,
                    f"{metric.name}_status": cell.status if cell else "",
                }
            for name, cells in derived:
                row |= {name: cells[i].value, f"{name}_text": cells[i].text}
            row |= {"case_ids": ",".join(line.case_ids), "command": line_command(line, board)}
            rows.append(row)
    return pd.DataFrame(rows)


def _metrics(columns: Sequence[Column]) -> list[Metric]:
    return [column for column in columns if isinstance(column, Metric)]


def _derived(columns: Sequence[Column]) -> list[DerivedColumn]:
    return [column for column in columns if isinstance(column, DerivedColumn)]


def _texts(boards: Sequence[Board], columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    names = _question_columns(boards)
    units = {
        metric.name: display_unit(
            metric.unit,
            [line.cells[metric.name].value for board in boards for line in board.lines if metric.name in line.cells],
        )
        for metric in _metrics(columns)
    }
    heads = [
        units[column.name].header(column.name) if isinstance(column, Metric) else _one_line(column.head)
        for column in columns
    ]
    rows = []
    for board in boards:
        texts = [
            [_text(line, column, units[column.name], board) for line in board.lines]
            if isinstance(column, Metric)
            else [cell.text for cell in line_cells(column, board, board.lines)]
            for column in columns
        ]
        for i, line in enumerate(board.lines):
            note = line.kind if line.kind != "ranked" else line.grade if line.grade != "native" else ""
            label = f"{line.label} ({note})" if note else line.label
            values = [of_column[i] for of_column in texts]
            rows.append([*(str(board.question[name]) for name in names), notes.ranks(line), label, *values])
    return [*names, "rank", "mechanism", *heads], rows


def _text(line: Line, metric: Metric, unit: DisplayUnit, board: Board) -> str:
    cell = line.cells.get(metric.name)
    if cell is None:
        return ""
    if cell.value is None:
        return cell.status
    arm = (unit.half_width if metric.by_difference else unit.relative_half_width)(cell.value, cell.low, cell.high)
    return f"{unit.text(cell.value)}{notes.marks(line, cell, metric == board.headline)} {arm}".strip()


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = (_MARKDOWN.sub(r"\\\g<0>", _one_line(cell)) for cell in cells)
        return f"| {' | '.join(escaped)} |"

    return "\n".join([line(heads), f"|{' --- |' * len(heads)}", *map(line, rows), ""])


def _latex(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = ("".join(_TEX.get(character, character) for character in _one_line(cell)) for cell in cells)
        return f"{' & '.join(escaped)} \\\\"

    body = [line(heads), "\\midrule", *map(line, rows)]
    return "\n".join(
        [f"\\begin{{tabular}}{{{'l' * len(heads)}}}", "\\toprule", *body, "\\bottomrule", "\\end{tabular}", ""]
    )


def _html(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"
