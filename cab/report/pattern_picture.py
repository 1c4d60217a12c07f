"""Mechanism by task and pattern: one picture of what is good where, and of what was not measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field
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

REFUSED = "unsupported"
FULL = 5.0  # doublings at which a colour is full, and as many fifths of softmax's gain
FRAME = "#b3470d"
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
        line = softmax_line(self.board)
        self.softmax = _valued(line, self.metric) if line else None
        self.floor = _best_floor(self.board, self.metric) if self.metric.is_score else None

    @property
    def title(self) -> str:
        question = self.board.question
        what = self.unit.header(self.metric.name) if self.metric.is_score else self.metric.name.replace("_", " ")
        lines = [str(question["task"]), f"{question['pattern']}, n = {question['n']:,}", what]
        lines += wrap(f"gain over {self.floor[0]}", HEAD) if self.floor else []
        return "<br>".join(map(plain, lines))

    def written(self, cell: Cell) -> tuple[str, float | None]:
        """Return what stands in a cell, and how much better than softmax it is, from -FULL to FULL, None if unknown."""
        assert cell.value is not None
        if not self.metric.is_score:
            return self._written_cost(cell)
        sign = 1 if self.metric.higher_is_better else -1
        if self.floor is None or self.floor[1].value is None or self.metric.higher_is_better is None:
            return format_number(cell.value / self.unit.factor), None
        gain = sign * (cell.value - self.floor[1].value)
        text = f"{'+' if gain >= 0 else '−'}{format_number(abs(gain) / self.unit.factor)}"
        full = sign * (self.softmax.value - self.floor[1].value) if self.softmax and self.softmax.value else 0.0
        return text, _clipped(FULL * (gain / full - 1)) if full > 0 else None

    def _written_cost(self, cell: Cell) -> tuple[str, float | None]:
        higher = self.metric.higher_is_better
        times = None if higher is None else ratio(cell, self.softmax) if higher else ratio(self.softmax, cell)
        if times is None or cell.value is None:
            return format_number((cell.value or 0.0) / self.unit.factor), None
        return format_number(times[0]), _clipped(log2(times[0]))


def patterns(results: Results, metric: str = "") -> "Figure":
    """Draw mechanism by task and pattern, each at its longest n: costs as a ratio to softmax, scores above the floor.

    A number says how many times as good as softmax, or by how much better than the best floor. White is as good as
    softmax, blue better, orange worse. Hatched: unsupported. Framed: failed. Empty: not measured; nothing is filled in.
    """
    import plotly.graph_objects as go

    columns = _columns(results.boards, metric)
    rows: dict[str, list[Line | None]] = {}
    for i, column in enumerate(columns):
        for line in column.board.lines:
            if line.kind != "leaky" and line.grade != "floor":
                label = line.label + (" (control)" if line.kind == "control" else "")
                rows.setdefault(label, [None] * len(columns))[i] = line
    cells = {
        label: [_entry(column, line) for column, line in zip(columns, lines, strict=True)]
        for label, lines in rows.items()
    }

    def order(label: str) -> tuple[bool, float, str]:
        shades = [shade for _, shade, _ in cells[label] if shade is not None]
        return not label.endswith(" (control)"), sum(shades) / len(shades) if shades else -2 * FULL, label

    labels = sorted(cells, key=order)  # the best last: plotly begins at the bottom
    titles, names = [column.title for column in columns], list(map(plain, labels))
    figure = go.Figure(
        go.Heatmap(
            x=titles,
            y=names,
            # a value without a comparison is white, and one that is not there is nothing
            z=[[(0.0 if shade is None else shade) if text else None for text, shade, _ in cells[la]] for la in labels],
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
    machines = sorted({column.board.machine for column in columns})
    about = notes.conditions(columns[0].board) if len({c.board.question["task"] for c in columns}) == 1 else ""
    subtitle = " · ".join(filter(None, [about, *machines, "hatched: unsupported; framed: failed; empty: not measured"]))
    title = "how many times as good as softmax, and scores above their floor"
    figure = styled(figure, title, None, max(HEIGHT, 22 * len(labels) + 260), subtitle)
    return figure.update_layout(margin={"t": 190}, width=max(WIDTH, 260 + COLUMN * len(columns)))


def _columns(boards: Sequence[Board], metric: str) -> list[_Column]:
    """Choose for each task and pattern the board at the longest n, of the configuration that has most lines."""
    names = {each.name for board in boards for each in board.metrics}
    if metric and metric not in names:
        raise unknown("metric", metric, names)
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
    if cell.value is None:
        return "", None, cell.status
    return *column.written(cell), cell.status


def _mark_others(
    figure: "Figure", titles: list[str], names: list[str], cells: list[list[tuple[str, float | None, str]]]
) -> None:
    """Hatch what is unsupported, frame what failed, and write at the right how many cells have a value."""
    places = [(i, j, *cells[j][i]) for j in range(len(names)) for i in range(len(titles))]
    refused = [(i, j) for i, j, text, _, status in places if not text and status == REFUSED]
    failed = [(i, j, status) for i, j, text, _, status in places if not text and status not in ("", REFUSED)]
    counts = [f"{sum(bool(text) for text, _, _ in row)}/{len(titles)}" for row in cells]
    for name, x, y, texts, colour in (
        (REFUSED, [titles[i] for i, _ in refused], [names[j] for _, j in refused], ["╱╱╱╱"] * len(refused), "#9aa1a9"),
        ("failed", [titles[i] for i, *_ in failed], [names[j] for _, j, _ in failed], [s for *_, s in failed], FRAME),
        ("measured", ["measured"] * len(names), names, counts, DARK_GREY),
    ):
        figure.add_scatter(
            x=x, y=y, text=texts, name=name, mode="text", showlegend=False, textfont={"color": colour, "size": 11},
            hoverinfo="skip", cliponaxis=False,
        )  # fmt: skip
    for i, j, _ in failed:
        figure.add_shape(
            type="rect", x0=i - 0.48, x1=i + 0.48, y0=j - 0.46, y1=j + 0.46, line={"color": FRAME, "width": 2}
        )


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
