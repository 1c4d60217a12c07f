"""Mechanism by task and pattern: one picture of what is good where, and of what was not measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log2
from textwrap import wrap
from typing import TYPE_CHECKING

from cab.analysis.comparison import ratio
from cab.analysis.derived_values import softmax_line
from cab.analysis.leaderboard import Board, Cell, Line, Metric
from cab.analysis.ranking import labelled_together, pattern_order, unmarked
from cab.analysis.results import Results
from cab.errors import UsageError, unknown
from cab.report import notes
from cab.report.figures import DARK_GREY, HEIGHT, WIDTH, largest_group, plain, styled
from cab.report.summary import longest_boards
from cab.report.units import DisplayUnit, display_unit, format_number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LEGEND = (
    "Blue: better than softmax, orange: worse. With a unit or without a colour: the value, where nothing compares.\n"
    "Hatched: unsupported. Framed: failed. Empty: not measured; nothing is filled in. Columns: the longest n of the\n"
    "configuration with most lines. Rows: by the mean over what was measured."
)
FINE = (*notes.EXPECTED_STATUSES, "leaky")
FULL = 5.0  # doublings at which a colour is full, and as many fifths of softmax's gain
FRAME = "#b3470d"
_ORDER = {"native": 0, "extension": 1, "leaky": 2}
COLUMN, HEAD = 118, 20  # pixels, and characters of a line above them


@dataclass
class _Column:
    """One board: what its cells are held against, and how they are written."""

    board: Board
    metric: Metric
    unit: DisplayUnit = field(init=False)
    softmax: Cell | None = field(init=False)
    floor: tuple[str, Cell] | None = field(init=False)  # the best of what needs no attention, for scores

    def __post_init__(self) -> None:
        cells = [line.cells.get(self.metric.name) for line in self.board.lines]
        self.unit = display_unit(self.metric.unit, [cell.value for cell in cells if cell])
        measured = replace(self.board, lines=[each for each in self.board.lines if _valued(each, self.metric)])
        line = softmax_line(measured)
        self.softmax = _valued(line, self.metric) if line else None
        has_floor = self.metric.is_score and self.metric.higher_is_better is not None
        self.floor = _best_floor(self.board, self.metric) if has_floor else None

    @property
    def title(self) -> str:
        question, name = self.board.question, self.metric.name.replace("_", " ")
        about = self.unit.header(self.metric.name) if self.metric.is_score else f"{name}, {question['pass']}"
        lines = [str(question["task"]), f"{question['pattern']}, {notes.lengths(question)}", *wrap(about, HEAD)]
        if self.floor:
            lines += wrap(f"gain over {self.floor[0]}", HEAD)
            lines += ["softmax is not above it"] if self.softmax and self._gain(self.softmax) <= 0 else []
        return "<br>".join(map(plain, lines))

    def written(self, cell: Cell) -> tuple[str, float | None]:
        """Return what stands in a cell, and how much better than softmax it is, from -FULL to FULL, None if unknown.

        What cannot be compared is the value itself, with its unit.
        """
        assert cell.value is not None
        itself = f"{format_number(cell.value / self.unit.factor)} {self.unit.name}".strip()
        higher = self.metric.higher_is_better
        if self.metric.is_score:
            if self.floor is None:
                return itself, None
            gain, full = self._gain(cell), self._gain(self.softmax) if self.softmax else 0.0
            text = f"{'+' if gain >= 0 else '−'}{format_number(abs(gain) / self.unit.factor)}"
            return text, _clipped(FULL * (gain / full - 1)) if full > 0 else None
        times = None if higher is None else ratio(cell, self.softmax) if higher else ratio(self.softmax, cell)
        return (itself, None) if times is None else (format_number(times[0]), _clipped(log2(times[0])))

    def _gain(self, cell: Cell) -> float:
        assert self.floor is not None and self.floor[1].value is not None and cell.value is not None
        return (1 if self.metric.higher_is_better else -1) * (cell.value - self.floor[1].value)


def patterns(results: Results, metric: str = "") -> "Figure":
    """Draw mechanism by task and pattern: costs as a ratio to softmax, scores above their floor.

    Each column is the longest n of the configuration that has most lines. A number says how many times as good as
    softmax, or by how much better than the best floor; with a unit it is the value itself, which nothing compares. Blue
    is better than softmax, orange worse. What was not measured is not filled in.
    """
    import plotly.graph_objects as go

    columns = _columns(results.boards, metric)
    rows: dict[str, list[Line | None]] = {}
    for i, column in enumerate(columns):
        for line in sorted(column.board.lines, key=lambda line: _ORDER.get(line.grade, 0)):  # of two grades the better
            if line.grade != "floor":
                label = line.label + (" (control)" if line.kind == "control" else "")
                row = rows.setdefault(label, [None] * len(columns))
                row[i] = row[i] or line
    cells = {
        label: [_entry(column, line) for column, line in zip(columns, lines, strict=True)]
        for label, lines in rows.items()
        if any(line is not None and line.kind != "leaky" for line in lines)
    }

    def order(label: str) -> tuple[bool, float, str]:
        shades = [shade for _, shade, _ in cells[label] if shade is not None]
        return not label.endswith(" (control)"), sum(shades) / len(shades) if shades else -2 * FULL, label

    labels = sorted(cells, key=order)  # the best last: plotly begins at the bottom
    if not labels:
        raise UsageError(notes.EMPTY)
    titles, names = [column.title for column in columns], list(map(plain, labels))
    figure = go.Figure(
        go.Heatmap(
            x=titles,
            y=names,
            # what has no comparison is grey, and what is not there is nothing
            z=[[shade for _, shade, _ in cells[label]] for label in labels],
            text=[[text for text, _, _ in cells[label]] for label in labels],
            texttemplate="%{text}",
            colorscale=[[0.0, "#e08a4a"], [0.5, "#ffffff"], [1.0, "#5b93cf"]],
            zmin=-FULL,
            zmax=FULL,
            showscale=False,
            xgap=2,
            ygap=2,
        )
    )
    _mark_others(figure, titles, names, [cells[label] for label in labels])
    figure.update_xaxes(side="top", tickangle=0, tickfont_size=10, showgrid=False, automargin=True)
    figure.update_yaxes(automargin=True, showgrid=False, range=[-0.5, len(labels) - 0.5])
    height = max(HEIGHT, 22 * len(labels) + 300)
    figure.add_annotation(
        text=plain(LEGEND).replace("\n", "<br>"), xref="paper", yref="paper", x=0, y=0, yshift=-12, yanchor="top",
        xanchor="left", align="left", showarrow=False, font={"size": 11, "color": DARK_GREY},
    )  # fmt: skip
    machines = sorted({column.board.machine for column in columns})
    about = notes.conditions(columns[0].board) if len({c.board.question["task"] for c in columns}) == 1 else ""
    title = "How many times as good as softmax, and scores above their floor"
    figure = styled(figure, title, None, height, " · ".join(filter(None, [about, *machines])))
    return figure.update_layout(margin={"t": 200, "b": 90}, width=max(WIDTH, 260 + COLUMN * len(columns)))


def _columns(boards: Sequence[Board], metric: str) -> list[_Column]:
    """Choose for each task and pattern the board at the longest n, of the configuration that has most lines."""
    names = {each.name for board in boards for each in board.metrics}
    if metric and metric not in names:
        raise unknown("metric", metric, names)
    undirected = {each.name for board in boards for each in board.metrics if each.higher_is_better is None}
    if metric in undirected:
        raise UsageError(f"{metric} has no direction, so that nothing is as good as softmax in it")
    having = [board for board in boards if not metric or any(each.name == metric for each in board.metrics)]
    if not having:
        raise UsageError(notes.EMPTY)
    chosen: list[Board] = []
    for task in sorted({str(board.question["task"]) for board in having}):
        group = largest_group([b for b in having if b.question["task"] == task], ("pattern", "n", "m"))
        chosen += longest_boards(group)
    chosen.sort(key=lambda b: (b.has_scores, str(b.question["task"]), pattern_order(str(b.question["pattern"]))))
    return [
        _Column(board, next((each for each in board.metrics if each.name == metric), board.headline))
        for board in labelled_together(chosen)
    ]


def _entry(column: _Column, line: Line | None) -> tuple[str, float | None, str]:
    """Return a cell's text, how much better than softmax it is, and its status; "" where there is none."""
    cell = line.cells.get(column.metric.name) if line else None
    if cell is None:
        return "", None, ""
    if line is not None and line.kind == "leaky":
        return "", None, "leaky"
    if cell.value is None:
        return "", None, cell.status
    return *column.written(cell), cell.status


def _mark_others(
    figure: "Figure", titles: list[str], names: list[str], cells: list[list[tuple[str, float | None, str]]]
) -> None:
    """Hatch what is unsupported, frame what failed, and write at the right how many cells have a value."""
    places = [
        (titles[i], names[j], text, shade, status)
        for j, row in enumerate(cells)
        for i, (text, shade, status) in enumerate(row)
    ]
    empty = [(x, y, status) for x, y, text, _, status in places if not text and status]
    counts = [f"{sum(bool(text) for text, _, _ in row)}/{len(titles)}" for row in cells]
    for name, at, colour in (
        ("unsupported", [(x, y, "╱╱╱╱") for x, y, status in empty if status == "unsupported"], "#9aa1a9"),
        ("failed", [each for each in empty if each[2] not in FINE], FRAME),
        ("other", [each for each in empty if each[2] in FINE and each[2] != "unsupported"], "#9aa1a9"),
        ("uncompared", [(x, y, text) for x, y, text, shade, _ in places if text and shade is None], DARK_GREY),
        ("measured", [("measured", y, count) for y, count in zip(names, counts, strict=True)], DARK_GREY),
    ):
        figure.add_scatter(
            x=[x for x, _, _ in at], y=[y for _, y, _ in at], text=[text for *_, text in at], name=name, mode="text",
            showlegend=False, textfont={"color": colour, "size": 11}, hoverinfo="skip", cliponaxis=False,
        )  # fmt: skip
    for x, y, status in empty:
        if status not in FINE:
            i, j = titles.index(x), names.index(y)
            frame = {"color": FRAME, "width": 2}
            figure.add_shape(type="rect", x0=i - 0.48, x1=i + 0.48, y0=j - 0.46, y1=j + 0.46, line=frame)


def _best_floor(board: Board, metric: Metric) -> tuple[str, Cell] | None:
    """Return the label and the score of the best of `none` and of what needs no model."""
    floors = [
        (line.label, cell)
        for line in board.lines
        if line.kind == "control" and (line.grade == "floor" or unmarked(line.mechanism) == "none")
        if (cell := _valued(line, metric)) is not None
    ]
    sign = 1 if metric.higher_is_better else -1
    return max(floors, key=lambda each: sign * (each[1].value or 0.0), default=None)


def _valued(line: Line, metric: Metric) -> Cell | None:
    cell = line.cells.get(metric.name)
    return cell if cell is not None and cell.value is not None else None


def _clipped(shade: float) -> float:
    return max(-FULL, min(FULL, shade))
