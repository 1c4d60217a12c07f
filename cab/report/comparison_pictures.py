"""Pictures that compare: A against B, whether patterns and tasks agree, and what is told apart over tasks."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cab.analysis.agreement import FEWEST, Agreement, agreements
from cab.analysis.comparison import Comparison, Interval, comparisons
from cab.analysis.mean_ranks import MeanRanks, PairedDifference, mean_ranks, paired_differences
from cab.analysis.questions import QUESTION
from cab.analysis.ranking import pattern_order
from cab.analysis.results import Results
from cab.errors import UsageError
from cab.report import notes
from cab.report.aggregates import about_pairs, about_ranks, aggregates_by_pattern
from cab.report.figures import COLOURS, DARK_GREY, GREY, HEIGHT, plain, styled
from cab.report.units import display_unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ROW_HEIGHT, MARGINS = 22, 170  # pixels
VERDICT_COLOURS = {"better": COLOURS[3], "worse": COLOURS[2], "": DARK_GREY}
_ABOUT_RATIOS = "of medians that were not measured side by side; the interval adds both half-widths as squares"


def compare(results: Results, first: str, second: str, metric: str = "") -> "Figure":
    """Draw one mechanism against another: a dot for each case, the ratio (of scores the difference) with interval."""
    pairs = comparisons(results.boards, first, second, metric)
    if not metric:  # the headlines of several tasks have no common axis
        metric = Counter(pair.metric.name for pair in pairs).most_common(1)[0][0]
    left_out = len(pairs)
    pairs = [pair for pair in pairs if pair.metric.name == metric and (pair.metric.by_difference or pair.ratio)]
    left_out -= len(pairs)
    if not pairs:
        raise UsageError(f"{metric}: no case has two positive values, so that there is no ratio to draw")
    pairs.sort(key=_case_order)
    chosen = pairs[0].metric
    unit = display_unit(chosen.unit, [pair.above.value for pair in pairs])
    names = [name for name in QUESTION if len({str(pair.board.question[name]) for pair in pairs}) > 1]
    names = [name for name in names if name != "m"] or ["task", "pattern", "n"]
    machines = {pair.board.machine for pair in pairs}
    figure = _empty_figure()
    for verdict, colour in VERDICT_COLOURS.items():
        shown = [i for i, pair in enumerate(pairs) if pair.verdict == verdict]
        points = [_point(pairs[i], unit.factor) for i in shown]
        figure.add_scatter(
            x=[value for value, *_ in points], y=shown, mode="markers",
            name=f"{len(shown)} {verdict or 'not told apart'}",
            marker={"size": 9, "color": colour if verdict else "white", "line": {"width": 1.5, "color": colour}},
            error_x={**_arms(points), "color": colour}, showlegend=True,
        )  # fmt: skip
    labels = [
        " ".join(_words(pair, name) for name in names) + (f" · {pair.board.machine}" if len(machines) > 1 else "")
        for pair in pairs
    ]
    figure.add_vline(x=0 if chosen.by_difference else 1, line={"dash": "dot", "color": DARK_GREY})
    title = f"A − B{f', {unit.name}' if unit.name else ''}" if chosen.by_difference else "A / B"
    figure.update_xaxes(type="linear" if chosen.by_difference else "log", title=title)
    figure.update_yaxes(
        tickvals=list(range(len(pairs))), ticktext=[plain(text) for text in labels], autorange="reversed"
    )
    subtitle = f"ratios {_ABOUT_RATIOS}"
    if chosen.by_difference:
        subtitle = "differences; the interval adds both half-widths as squares"
    if left_out:
        subtitle += f"; {left_out} cases of other metrics, or without a ratio, are left out"
    if len(machines) == 1:
        subtitle += f" · {next(iter(machines))}"
    what = chosen.name.replace("_", " ")
    return styled(figure, f"{first} (A) against {second} (B): {what}", None, _height(len(pairs)), subtitle)


def agreement(results: Results, metric: str = "") -> "Figure":
    """Draw the rank correlation of each two patterns and of each two tasks: a dot with its interval and its count."""
    if metric:
        raise UsageError("cab plot agreement takes no --metric: each board's headline is compared")
    pairs = agreements(results.boards)
    if not pairs:
        raise UsageError("an agreement needs two patterns of one question, or two tasks with scores in one pattern")
    with_value = [(i, pair) for i, pair in enumerate(pairs) if pair.value is not None]
    figure = _empty_figure()
    for kind, colour in (("pattern", COLOURS[1]), ("task", COLOURS[2])):
        shown = [(i, pair) for i, pair in with_value if pair.kind == kind]
        figure.add_scatter(
            x=[pair.value for _, pair in shown], y=[i for i, _ in shown], mode="markers", name=f"two {kind}s",
            marker={"size": 9, "color": colour}, error_x=_arms([(p.value, p.low, p.high) for _, p in shown]),
        )  # fmt: skip
    for i, pair in enumerate(pairs):
        if pair.value is None:  # the axis stays blank here
            why = f"fewer than {FEWEST}" if pair.count < FEWEST else "all equal on one of them"
            text = f"{pair.count} mechanisms on both, {why}: no correlation"
            figure.add_annotation(x=0, y=i, text=text, showarrow=False, font={"color": DARK_GREY})
    figure.add_vline(x=0, line={"dash": "dot", "color": DARK_GREY})
    figure.update_xaxes(range=[-1.05, 1.05], title="Spearman's rank correlation, with its 95 % interval")
    labels = [plain(_agreement_label(pair)) for pair in pairs]
    ends = [len(pairs) - 0.5, -0.5]  # the first at the top
    figure.update_yaxes(tickvals=list(range(len(pairs))), ticktext=labels, range=ends)
    subtitle = "1: the same order of mechanisms; 0: none in common; −1: the reverse; in brackets: how many both rank"
    return styled(figure, "Do patterns, and do tasks, agree?", None, _height(len(pairs)), subtitle)


def ranks(results: Results, metric: str = "") -> "Figure":
    """Draw which mechanisms are told apart over the tasks of each pattern.

    From ten tasks on by mean ranks, with a bar over those that the critical difference does not tell apart; below
    that by the paired differences from the best.
    """
    if metric:
        raise UsageError("cab plot ranks takes no --metric: each task's headline is placed between none and softmax")
    figures: list[tuple[str, MeanRanks | list[PairedDifference], str]] = []
    for pattern, aggregates in aggregates_by_pattern(results.boards).items():
        means = mean_ranks(aggregates)
        if means is not None:
            about = about_ranks(means, aggregates[0].tasks)
            figures.append((notes.pattern_title(pattern), means, about))
        elif differences := paired_differences(aggregates):
            figures.append((notes.pattern_title(pattern), differences, about_pairs(differences)))
    if not figures:
        raise UsageError(
            "ranks over tasks need two tasks of one pattern with scores of none, softmax and another mechanism; "
            "train with: cab run task=recall_ns,mqar mechanism=none,softmax,agent"
        )
    from plotly.subplots import make_subplots

    heights = [_panel_height(drawn) for _, drawn, _ in figures]
    titles = [f"{plain(title)}<br><sup>{plain(about)}</sup>" for title, _, about in figures]
    total = sum(heights)
    figure = make_subplots(
        len(figures), 1, subplot_titles=titles, row_heights=[height / total for height in heights],
        vertical_spacing=min(0.9 / len(figures), 110 / (total + 110 * len(figures))),
    )  # fmt: skip
    for row, (_, drawn, _) in enumerate(figures, start=1):
        if isinstance(drawn, MeanRanks):
            _draw_mean_ranks(figure, drawn, row)
        else:
            _draw_differences(figure, drawn, row)
    return styled(figure, "Which mechanisms are told apart over the tasks", None, total + 110 * len(figures) + 60)


def _draw_mean_ranks(figure: "Figure", means: MeanRanks, row: int) -> None:
    """Draw a critical-difference diagram: ranks on an axis, names at both sides, bars over what is not told apart."""
    names, last = list(means.ranks), len(means.ranks)
    half = (last + 1) // 2
    top = len(means.groups) + 1  # of the names, counted in rows below the axis
    for i, (name, rank) in enumerate(means.ranks.items()):
        is_left = i < half
        y = -(top + (i if is_left else last - 1 - i))
        edge = 1 - 0.02 * last if is_left else last + 0.02 * last
        figure.add_scatter(
            x=[rank, rank, edge], y=[0, y, y], mode="lines", line={"color": GREY, "width": 1}, showlegend=False,
            hoverinfo="skip", row=row, col=1,
        )  # fmt: skip
        figure.add_scatter(
            x=[edge], y=[y], mode="text", text=[f" {plain(name)} {rank:.1f} "], showlegend=False,
            textposition="middle left" if is_left else "middle right", row=row, col=1,
        )  # fmt: skip
    ends = list(means.ranks.values())
    figure.add_scatter(
        x=ends, y=[0] * last, text=list(map(plain, names)), mode="markers", marker={"size": 7, "color": COLOURS[0]},
        showlegend=False, row=row, col=1,
    )  # fmt: skip
    bars = [(means.ranks[group[0]], means.ranks[group[-1]], -1 - i) for i, group in enumerate(means.groups)]
    bars = [(from_ - 0.03, to + 0.03, y) for from_, to, y in bars]
    for from_, to, y in bars:
        figure.add_scatter(
            x=[from_, to],
            y=[y, y],
            mode="lines",
            line={"color": COLOURS[0], "width": 5},
            showlegend=False,
            row=row,
            col=1,
        )
    figure.add_scatter(
        x=[1, 1 + means.critical_difference], y=[1, 1], mode="lines+markers", showlegend=False, row=row, col=1,
        line={"color": COLOURS[1], "width": 2}, marker={"symbol": "line-ns-open", "size": 9, "color": COLOURS[1]},
    )  # fmt: skip
    figure.add_scatter(
        x=[1 + means.critical_difference / 2], y=[1.1], mode="text", textposition="top center", showlegend=False,
        text=[f"critical difference {means.critical_difference:.2f}"], row=row, col=1,
    )  # fmt: skip
    margin = 0.3 * last
    range_ = [1 - margin, max(last + margin, 1 + means.critical_difference)]
    ticks = list(range(1, last + 1, -(-last // 12)))
    figure.update_xaxes(range=range_, tickvals=ticks, title="mean rank, 1 is the best", zeroline=False, row=row, col=1)
    figure.update_yaxes(visible=False, range=[-(top + half), 2.4], row=row, col=1)


def _draw_differences(figure: "Figure", pairs: Sequence[PairedDifference], row: int) -> None:
    points = [(pair.value, pair.low, pair.high) for pair in pairs]
    apart = [pair.high is not None and pair.high < 0 for pair in pairs]
    figure.add_scatter(
        x=[pair.value for pair in pairs], y=list(range(len(pairs))), mode="markers", error_x=_arms(points),
        showlegend=False,
        marker={"size": 9, "color": [COLOURS[2] if each else "white" for each in apart],
                "line": {"width": 1.5, "color": [COLOURS[2] if each else DARK_GREY for each in apart]}},
        row=row, col=1,
    )  # fmt: skip
    figure.add_vline(x=0, line={"dash": "dot", "color": DARK_GREY}, row=row, col=1)
    labels = [plain(f"{pair.mechanism} (better on {pair.better} of {pair.tasks})") for pair in pairs]
    figure.update_yaxes(
        tickvals=list(range(len(pairs))),
        ticktext=labels,
        range=[len(pairs) - 0.5, -0.5],
        automargin=True,
        row=row,
        col=1,
    )
    figure.update_xaxes(title=f"aggregate less that of {plain(pairs[0].against)}; filled: told apart", row=row, col=1)


def _panel_height(drawn: MeanRanks | Sequence[PairedDifference]) -> int:
    rows = len(drawn.groups) + len(drawn.ranks) // 2 + 6 if isinstance(drawn, MeanRanks) else len(drawn)
    return ROW_HEIGHT * max(rows, 4)


def _point(pair: Comparison, factor: float) -> Interval:
    """Return where a case stands: the difference of scores, in a unit of `factor`, or the ratio of costs."""
    if not pair.metric.by_difference:
        assert pair.ratio is not None  # those without one are left out before
        return pair.ratio
    value, low, high = pair.difference
    return value / factor, None if low is None else low / factor, None if high is None else high / factor


def _empty_figure() -> "Figure":
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(yaxis={"automargin": True}, legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0})
    return figure


def _height(rows: int) -> int:
    return max(HEIGHT // 2, ROW_HEIGHT * rows + MARGINS)


def _arms(points: Sequence[tuple[float | None, float | None, float | None]]) -> dict[str, object]:
    """Return error bars of (value, low, high); of length 0 where there is no interval."""
    above = [0.0 if value is None or high is None else high - value for value, _, high in points]
    below = [0.0 if value is None or low is None else value - low for value, low, _ in points]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.5}


def _case_order(pair: Comparison) -> tuple[object, ...]:
    question = pair.board.question
    others = [str(question[name]) for name in QUESTION if name not in ("pattern", "n", "m")]
    return question["task"], pattern_order(str(question["pattern"])), question["pass"], *others, question["n"] or 0


def _words(pair: Comparison, name: str) -> str:
    value = pair.board.question[name]
    if name in ("pattern", "task", "pass"):
        return str(value).replace("_", " ")
    return f"n={value:,}" if name == "n" else f"{name}={value}"


def _agreement_label(pair: Agreement) -> str:
    return f"{pair.first} and {pair.second} ({pair.count}) · {pair.where}"
