"""Pictures of a store with plotly, as HTML, or as PNG or SVG."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import inf, log2, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.analysis.comparison import ratio
from cab.analysis.curves import SETTING_COLUMNS
from cab.analysis.derived_values import softmax_line
from cab.analysis.leaderboard import Board, Cell, Line, Metric
from cab.analysis.quality import measured_costs
from cab.analysis.quality import quality as of_lengths
from cab.analysis.ranking import labelled_together, pattern_order, unmarked
from cab.analysis.results import Results
from cab.errors import UsageError, unknown
from cab.report import notes
from cab.report.comparison_pictures import agreement, ranks
from cab.report.export import write_file
from cab.report.figures import COLOURS, GREY, HEIGHT, largest_group, plain, styled
from cab.report.pattern_picture import patterns
from cab.report.summary import longest_boards
from cab.report.units import DisplayUnit, display_unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FORMATS = ("png", "svg", "html")
_ACROSS = ("latency", "latency_ratio", "flops", "peak_allocated")  # costs: the first one that there is
HIGHLIGHTED = 8  # lines that have a colour and a name; the others are grey


def curve(results: Results, metric: str = "", absolute: bool = False) -> "Figure":
    """Draw a cost by length as its ratio to softmax, or `absolute`, a panel for each pattern; a score as it is.

    Bands are the intervals of the lines that have a colour.
    """
    from plotly.subplots import make_subplots

    group = labelled_together(largest_group(results.boards, ("pattern", "n", "m")))
    chosen = _metric(group, metric)
    as_it_is = absolute or chosen.is_score
    patterns = sorted({str(board.question["pattern"]) for board in group}, key=pattern_order)
    series: dict[str, dict[str, list[tuple[int, float, float | None, float | None]]]] = {name: {} for name in patterns}
    for board in sorted(group, key=lambda board: int(board.question["n"])):
        reference = softmax_line(board)
        below = reference.cells.get(chosen.name) if reference else None
        for line in board.lines:
            cell = line.cells.get(chosen.name)
            if line.kind != "ranked" or cell is None or cell.value is None:
                continue
            point = (cell.value, cell.low, cell.high) if as_it_is else ratio(cell, below)
            if point is not None:
                points = series[str(board.question["pattern"])].setdefault(line.label, [])
                points.append((int(board.question["n"]), *point))
    if max((len({p[0] for p in points}) for of in series.values() for points in of.values()), default=0) < 2:
        if not as_it_is and len({board.question["n"] for board in group}) > 1:
            raise UsageError("there is no softmax to compare with at two lengths; --absolute draws the cost itself")
        raise UsageError("a curve needs two lengths of one question; measure more with seq_len=256,512,1024")
    columns = 2 if len(patterns) > 1 else 1
    titles = [notes.pattern_title(pattern) for pattern in patterns]
    figure = make_subplots(
        -(-len(patterns) // columns), columns, subplot_titles=titles, shared_xaxes=True, shared_yaxes=True,
        horizontal_spacing=0.05, vertical_spacing=0.1,
    )  # fmt: skip
    highlighted = _best_of_curves(series, chosen)
    drawn = [value for of in series.values() for points in of.values() for _, value, *_ in points]
    unit = display_unit(chosen.unit, drawn) if as_it_is else DisplayUnit(1.0, "")
    for i, pattern in enumerate(patterns):
        # grey lines first, so that the coloured ones lie above them
        for label, points in sorted(series[pattern].items(), key=lambda item: item[0] in highlighted):
            is_named = label in highlighted
            colour = COLOURS[highlighted.index(label)] if is_named else GREY
            x = [n for n, *_ in points]
            if is_named:
                lows = [value if low is None else low for _, value, low, _ in points]
                highs = [value if high is None else high for _, value, _, high in points]
                figure.add_scatter(
                    x=x + x[::-1], y=[end / unit.factor for end in highs + lows[::-1]],
                    fill="toself", fillcolor=colour, opacity=0.15, mode="none",
                    name=f"{plain(label)}, 95 %", legendgroup=label, showlegend=False, hoverinfo="skip",
                    row=i // columns + 1, col=i % columns + 1,
                )  # fmt: skip
            figure.add_scatter(
                x=x, y=[value / unit.factor for _, value, *_ in points], name=plain(label),
                legendgroup=label, showlegend=is_named and not any(label in series[p] for p in patterns[:i]),
                mode="lines+markers" if is_named else "lines", line={"color": colour, "width": 2 if is_named else 1},
                row=i // columns + 1, col=i % columns + 1,
            )  # fmt: skip
    figure.update_xaxes(type="log", title="n", tickvals=sorted({int(board.question["n"]) for board in group}))
    if not chosen.is_score:
        figure.update_yaxes(type="log")
    if not as_it_is:
        figure.add_hline(y=1, line={"dash": "dot", "color": "#59616b"})
    axis = unit.header(chosen.name) if as_it_is else f"{chosen.name.replace('_', ' ')}, ratio to softmax"
    return styled(figure, f"{axis} by length", group[0])


def tradeoff(results: Results, metric: str = "") -> "Figure":
    """Draw a cost against a score, or latency against peak memory, with both intervals.

    What nothing beats in both is filled, and joined by steps. A score's cost is that of the same model, or, where none
    was measured, of the same mechanism on its own (`task=speed`): the title says of which length and machine. A dotted
    line is the score of `none`.
    """
    import plotly.graph_objects as go

    board, up, costs = _plane(results, metric)
    across = _cost_across(costs, up)
    assert across is not None
    cost_of = {(line.mechanism, str(line.params), line.backend): line.cells.get(across.name) for line in costs.lines}
    points = []
    for line in board.lines:
        x, y = cost_of.get((line.mechanism, str(line.params), line.backend)), line.cells.get(up.name)
        if line.kind == "ranked" and x is not None and y is not None and None not in (x.value, y.value):
            points.append((line, x, y))
    if not points:
        raise UsageError(f"no mechanism has both {across.name} and {up.name}")
    sign = -1 if up.higher_is_better else 1
    front = [point for point in points if not any(_dominates(other, point, sign) for other in points)]
    x_unit = display_unit(across.unit, [x.value for _, x, _ in points])
    y_unit = display_unit(up.unit, [y.value for _, _, y in points])
    figure = go.Figure()
    for name, fill in (("dominated", "white"), ("frontier", COLOURS[1])):
        members = [point for point in points if (point in front) == (name == "frontier")]
        members.sort(key=lambda point: point[1].value or 0.0)
        colour = COLOURS[1] if name == "frontier" else "#59616b"
        figure.add_scatter(
            x=[(x.value or 0.0) / x_unit.factor for _, x, _ in members],
            y=[(y.value or 0.0) / y_unit.factor for _, _, y in members],
            text=[plain(line.label) for line, _, _ in members],
            mode="lines+markers+text" if name == "frontier" else "markers",  # names of all would hide each other
            line={"shape": "hv", "dash": "dot", "width": 1, "color": colour},
            name=name,
            textposition="top center",
            marker={"size": 9, "color": fill, "line": {"width": 1.5, "color": colour}},
            error_x=_arms([x for _, x, _ in members], x_unit.factor, colour),
            error_y=_arms([y for _, _, y in members], y_unit.factor, colour),
        )
    floor = next((line.cells.get(up.name) for line in board.lines if unmarked(line.mechanism) == "none"), None)
    if up.is_score and floor is not None and floor.value is not None:
        figure.add_hline(
            y=floor.value / y_unit.factor, line={"dash": "dot", "color": "#59616b"}, annotation_text="none",
            annotation_position="bottom right",
        )  # fmt: skip
    figure.update_xaxes(type="log", title=x_unit.header(across.name))
    figure.update_yaxes(type="linear" if up.is_score else "log", title=y_unit.header(up.name))
    title = notes.title([board])
    if costs is not board:
        elsewhere = "" if costs.machine == board.machine else f", on {costs.machine}"
        title += f"; {across.name} of {notes.title([costs])}{elsewhere}"
    return styled(figure, title, board)


def _plane(results: Results, metric: str) -> tuple[Board, Metric, Board]:
    """Return the board and the metric to draw upwards, and the board of the costs to draw across."""
    boards = longest_boards(results.boards)
    names = list(dict.fromkeys(m.name for board in boards for m in board.metrics))
    if metric and metric not in names:
        raise unknown("metric", metric, names)
    for board in sorted(boards, key=lambda board: (board.has_scores, len(board.lines)), reverse=True):
        usual = board.headline.name if board.has_scores else "peak_allocated"
        up = next((m for m in board.metrics if m.name == (metric or usual)), None)
        if up is None:
            continue
        if up.higher_is_better is None:
            raise UsageError(f"{up.name} has no direction, so that no mechanism beats another in it")
        costs = board if _cost_across(board, up) else _costs_of(board, up, results.boards)
        if costs is not None:
            return board, up, costs
    words = "task=speed 'meters=[latency,memory]'"
    raise UsageError(f"no two mechanisms have both {metric or 'a score'} and a cost; measure one: cab run {words}")


def _cost_across(board: Board, up: Metric) -> Metric | None:
    metrics = {m.name: m for m in board.metrics if m.name != up.name}
    return next((metrics[name] for name in _ACROSS if name in metrics), None)


def _costs_of(board: Board, up: Metric, boards: Sequence[Board]) -> Board | None:
    """Return the board of costs in a board's pattern with most of its mechanisms.

    Of equal ones that of its machine, then the one whose length is nearest.
    """
    keys = {(line.mechanism, str(line.params), line.backend) for line in board.lines if line.kind == "ranked"}

    def common(other: Board) -> int:
        return len(keys & {(line.mechanism, str(line.params), line.backend) for line in other.lines})

    def rank(other: Board) -> tuple[int, bool, float]:
        distance = abs(log2(int(other.question["n"]) / int(board.question["n"])))
        return common(other), other.machine == board.machine, -distance

    others = [
        other
        for other in boards
        if not other.has_scores and other.question["pattern"] == board.question["pattern"] and _cost_across(other, up)
    ]
    best = max(others, key=rank, default=None)
    return best if best is not None and common(best) > 1 else None


def _arms(cells: Sequence[Cell], factor: float, colour: str) -> dict[str, Any]:
    """Return the intervals of cells, as plotly draws them."""
    ends = [((cell.value or 0.0), *cell.interval) for cell in cells]
    return {
        "type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour,
        "array": [(high - value) / factor for value, _, high in ends],
        "arrayminus": [(value - low) / factor for value, low, _ in ends],
    }  # fmt: skip


def training(results: Results, metric: str = "") -> "Figure":
    """Draw the validations of each training: a line for each mechanism and seed, by step."""
    import plotly.graph_objects as go

    rows = results.rows[results.rows["step"].notna() & (results.rows["grade"] != "floor")]
    if rows.empty:
        raise UsageError("no training was recorded; train with: cab run task=recall_ns mechanism=softmax")
    names = sorted(rows["metric"].unique())
    chosen = metric or names[0]
    if chosen not in names:
        raise unknown("metric", chosen, names)
    rows = rows[rows["metric"] == chosen].sort_values("step")
    figure = go.Figure()
    labels = sorted(rows["mechanism"].unique(), key=lambda name: (name != "softmax", name))
    keys = ["mechanism", "task", "pattern", "n", "seed", "case_id"]
    legend: set[str] = set()
    for (mechanism, task, pattern, n, _, _), of in rows.groupby(keys, sort=False):
        name = f"{mechanism} {task} {pattern} n={n}"
        colour = COLOURS[labels.index(mechanism) % len(COLOURS)]
        figure.add_scatter(
            x=list(of["step"]), y=list(of["value"]), name=plain(name), legendgroup=name, showlegend=name not in legend,
            mode="lines+markers", line={"color": colour},
        )  # fmt: skip
        legend.add(name)
    figure.update_xaxes(title="step")
    figure.update_yaxes(title=chosen.replace("_", " "))
    return styled(figure, f"{chosen.replace('_', ' ')} on the validation examples, by step", None)


def wins(results: Results, metric: str = "") -> "Figure":
    """Draw from which length each mechanism beats softmax: a dot with its interval, an arrow where an end is open."""
    from plotly.subplots import make_subplots

    rows = results.rows
    leaky = set(zip(*(rows.loc[rows["grade"] == "leaky", name] for name in ("mechanism", "pattern")), strict=True))
    table = results.efficiency_lengths
    pairs = zip(table["mechanism"], table["pattern"], strict=True)
    table = table[[pair not in leaky for pair in pairs]]
    if table.empty:
        raise UsageError("where one wins needs two lengths, softmax among them; measure more with seq_len=256,512,1024")
    names = sorted(table["metric"].unique())
    chosen = metric or ("latency" if "latency" in names else names[0])
    if chosen not in names:
        raise unknown("metric", chosen, names)
    table = table[table["metric"] == chosen]
    against = "softmax sdpa" if "softmax sdpa" in set(table["against"]) else str(table["against"].iloc[0])
    table = table[table["against"] == against]
    fixed = [name for name in SETTING_COLUMNS if name in table and name not in ("pattern", "metric")]
    sizes = table.groupby(fixed, dropna=False)["mechanism"].transform("size")
    question = table[fixed].iloc[int(sizes.to_numpy().argmax())]
    table = table[(table[fixed].astype(str) == question.astype(str)).all(axis=1)]
    patterns = sorted(set(table["pattern"]), key=pattern_order)
    columns = 2 if len(patterns) > 1 else 1
    titles = [notes.pattern_title(pattern) for pattern in patterns]
    figure = make_subplots(
        -(-len(patterns) // columns), columns, subplot_titles=titles, shared_xaxes=True, horizontal_spacing=0.15,
        vertical_spacing=0.08,
    )  # fmt: skip
    for i, pattern in enumerate(patterns):
        wins_of = table[table["pattern"] == pattern].to_dict("records")
        wins_of.sort(key=lambda row: (_win_position(row), row["mechanism"]), reverse=True)
        repeated = {name for name, count in Counter(row["mechanism"] for row in wins_of).items() if count > 1}
        labels = [f"{r['mechanism']} {r['params']}" if r["mechanism"] in repeated else r["mechanism"] for r in wins_of]
        labels = [
            label if row["backend"] == "eager" else f"{label} {row['backend']}"
            for label, row in zip(labels, wins_of, strict=True)
        ]
        points = list(map(_win_point, wins_of))
        figure.add_scatter(
            x=[x for x, *_ in points], y=list(map(plain, labels)), mode="markers", showlegend=False,
            text=[row["text"] for row in wins_of],
            error_x={"type": "data", "array": [up for _, _, up, _ in points],
                     "arrayminus": [down for _, down, _, _ in points], "thickness": 1.5},
            marker={"symbol": [symbol for *_, symbol in points], "size": 9, "color": COLOURS[1]},
            row=i // columns + 1, col=i % columns + 1,
        )  # fmt: skip
    lengths = [float(table["shortest"].min()), float(table["longest"].max())]
    measured = sorted({int(n) for n in rows.loc[rows["metric"] == chosen, "n"]})
    ends = [log10(lengths[0] * 0.8), log10(lengths[1] * 1.2)]
    figure.update_xaxes(type="log", title="n", range=ends, tickvals=measured)
    figure.update_yaxes(dtick=1)
    title = f"From which n {chosen.replace('_', ' ')} is below that of {against}, {question['pass'].replace('_', ' ')}"
    tallest = max(int((table["pattern"] == pattern).sum()) for pattern in patterns)
    height = max(HEIGHT, (20 * tallest + 80) * -(-len(patterns) // columns) + 120)
    return styled(figure, f"{title}. Arrow: an open end; hollow: not certain", None, height=height)


def _win_position(row: dict[Any, Any]) -> float:
    """Return a length by which rows are ordered: what wins already first, what never does last."""
    if row["answer"] == "from":
        return float(row["length"])
    return 0.0 if row["answer"] == "already" else inf


def _win_point(row: dict[Any, Any]) -> tuple[float, float, float, str]:
    """Return where a row's mark stands, the arms of its interval below and above, and the mark."""
    shortest, longest = float(row["shortest"]), float(row["longest"])
    low, high = (None if row[name] != row[name] else row[name] for name in ("low", "high"))
    if row["answer"] == "already":
        return shortest, 0.0, 0.0, "triangle-left" if low is None else "triangle-left-open"
    if row["answer"] == "never":
        return longest, 0.0, 0.0, "triangle-right" if high is None else "triangle-right-open"
    length = float(row["length"])
    symbol = "circle" if low is not None and high is not None else "circle-open"
    return length, length - float(low or shortest), float(high or longest) - length, symbol


def quality(results: Results, metric: str = "") -> "Figure":
    """Draw how well a cost was measured: its half-widths at each length, with their quantiles."""
    import plotly.graph_objects as go

    costs = measured_costs(results.rows)
    names = sorted(costs["metric"].unique())
    if not names:
        raise UsageError("no cost with an interval was measured; time something with: cab run meters=[latency]")
    chosen = metric or ("latency" if "latency" in names else names[0])
    if chosen not in names:
        raise unknown("metric", chosen, names)
    figure = go.Figure()
    of_metric = costs[costs["metric"] == chosen].dropna(subset=["half_width"])
    counts = {each.n: each for each in of_lengths(costs) if each.metric == chosen}
    for _, group in of_metric.groupby("n", sort=True):
        pairs = zip(group["mechanism"], group["pattern"], strict=True)
        hover = [f"{plain(str(mechanism))} {pattern}" for mechanism, pattern in pairs]
        of_length = counts[int(group["n"].iloc[0])]
        name = f"{of_length.n:,}<br>{of_length.converged / of_length.values:.0%} of {of_length.values} converged"
        figure.add_box(
            y=list(100 * group["half_width"]), name=name, text=hover, boxpoints="all", jitter=0.6, pointpos=0,
            fillcolor="rgba(0, 0, 0, 0)",
            marker={"color": COLOURS[1], "size": 4}, line={"color": COLOURS[0], "width": 1}, showlegend=False,
        )  # fmt: skip
    figure.add_hline(y=5, line={"dash": "dot", "color": "#59616b"})
    figure.update_yaxes(type="log", title=f"half-width of the 95 % interval of {chosen.replace('_', ' ')}, %")
    figure.update_xaxes(title="n")
    return styled(figure, f"How well {chosen.replace('_', ' ')} was measured", None)


PICTURES: dict[str, Callable[..., "Figure"]] = {  # of results, a metric, and options of some
    "curve": curve, "tradeoff": tradeoff, "patterns": patterns, "training": training,
    "quality": quality,
    "wins": wins,
    "agreement": agreement, "ranks": ranks,
}  # fmt: skip


def write_picture(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of the path's suffix; `UsageError` says what PNG and SVG need."""
    kind = path.suffix.lstrip(".")
    if kind not in FORMATS:
        raise unknown("format", kind, FORMATS)
    if kind == "html":
        write_file(path, figure.to_html(include_plotlyjs=True))
        return
    try:
        content = figure.to_image(format=kind)
    except (OSError, RuntimeError, ValueError) as error:  # of plotly, kaleido and the browser, where one is missing
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"cannot draw {kind}: {first}. PNG and SVG need the extra `pictures` and a Chromium or Chrome; "
            f"--format html needs neither"
        ) from error
    write_file(path, content)


def _metric(boards: Sequence[Board], name: str) -> Metric:
    metrics = {metric.name: metric for board in boards for metric in board.metrics}
    if name and name not in metrics:
        raise unknown("metric", name, metrics)
    return metrics[name] if name else boards[0].headline


def _dominates(other: tuple[Line, Cell, Cell], point: tuple[Line, Cell, Cell], sign: int) -> bool:
    """Whether another point is at least as good in both, and better in one."""
    less_x = (point[1].value or 0.0) - (other[1].value or 0.0)
    less_y = sign * ((point[2].value or 0.0) - (other[2].value or 0.0))
    return min(less_x, less_y) >= 0 and max(less_x, less_y) > 0


def _best_of_curves(series: dict[str, dict[str, list[Any]]], metric: Metric) -> list[str]:
    """Return the labels to highlight: softmax, and the best at the longest length over the patterns."""
    sums: dict[str, list[float]] = {}
    for of in series.values():
        for label, points in of.items():
            sums.setdefault(label, []).append(points[-1][1])
    sign = -1 if metric.higher_is_better else 1
    order = sorted(sums, key=lambda label: (-len(sums[label]), sign * sum(sums[label]) / len(sums[label])))
    softmax = [label for label in sorted(sums, reverse=True) if label.split()[0] == "softmax"][:2]
    return list(dict.fromkeys([*softmax, *order]))[:HIGHLIGHTED]
