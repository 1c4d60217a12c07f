"""Pictures of a store."""

import shutil
from pathlib import Path

import pytest

from cab.analysis.results import Results
from cab.errors import UsageError
from cab.report.pictures import curve, quality, tradeoff, training, wins, write_picture
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows, with_columns

COSTS = {"softmax": (4.0, 400), "fast": (1.0, 100), "lean": (2.0, 10), "slow": (8.0, 200), "mean": (0.1, 0)}
GRID = Results(
    table_of(
        *(
            case_rows(
                {"latency": (s * n, s * n * 0.9, s * n * 1.2), "peak_allocated": mebibytes * n},
                mechanism=name, pattern=pattern, n=n, m=n,
            )
            for pattern in ("CC", "NS")
            for n in (256, 512)
            for name, (s, mebibytes) in COSTS.items()
        )
    ),
    environments(),
)  # fmt: skip


def test_a_curve_is_the_ratio_to_softmax_of_every_ranked_line() -> None:
    lines = {(trace.name, trace.yaxis): list(trace.y) for trace in curve(GRID).data if trace.fill is None}
    assert len(lines) == 8 and lines["fast", "y"] == pytest.approx([0.25, 0.25])
    assert not any(name == "mean" for name, _ in lines)


def test_an_absolute_curve_is_the_cost_itself_in_its_band() -> None:
    figure = curve(GRID, absolute=True)
    traces = {trace.name: trace for trace in figure.data if trace.yaxis == "y"}
    assert list(traces["fast"].x) == [256, 512] and list(traces["fast"].y) == pytest.approx([256, 512])
    # along the upper ends and back along the lower ones
    assert list(traces["fast, 95 %"].y) == pytest.approx([256 * 1.2, 512 * 1.2, 512 * 0.9, 256 * 0.9])
    assert figure.layout.title.text.startswith("latency (s) by length") and not figure.layout.shapes
    assert curve(GRID).layout.shapes  # the line at 1


def test_one_length_is_no_curve() -> None:
    with pytest.raises(UsageError, match="two lengths"):
        curve(Results(table_of(case_rows({"latency": 1.0})), environments()))


def test_lengths_without_softmax_are_drawn_absolute() -> None:
    alone = Results(table_of(*(case_rows({"latency": n}, mechanism="a", n=n, m=n) for n in (256, 512))), environments())
    with pytest.raises(UsageError, match="no softmax to compare with at two lengths; --absolute draws the cost"):
        curve(alone)
    assert [list(trace.x) for trace in curve(alone, absolute=True).data if trace.fill is None] == [[256, 512]]


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    by_name = {trace.name: set(trace.text) for trace in tradeoff(GRID).data}
    assert by_name == {"frontier": {"fast", "lean"}, "dominated": {"softmax", "slow"}}


def test_the_frontier_has_both_intervals() -> None:
    traces = {trace.name: trace for trace in tradeoff(GRID).data}
    fast = list(traces["frontier"].text).index("fast")
    assert traces["frontier"].error_x.array[fast] == pytest.approx(0.2 * traces["frontier"].x[fast])
    assert traces["dominated"].error_x.arrayminus == pytest.approx([0.1 * x for x in traces["dominated"].x])


def test_a_score_stands_over_the_cost_that_was_measured_elsewhere() -> None:
    scores = [training_rows(name, x) for name, x in (("softmax", 0.9), ("fast", 0.5), ("slow", 0.4), ("none", 0.1))]
    costs = [case_rows({"latency": COSTS[name][0]}, mechanism=name, n=n, m=n) for name in COSTS for n in (256, 2048)]
    both = Results(table_of(*scores, *costs), environments())
    figure = tradeoff(both)
    by_name = {trace.name: set(trace.text) for trace in figure.data}
    assert by_name == {"frontier": {"softmax", "fast"}, "dominated": {"slow"}}
    assert (
        "latency of" in figure.layout.title.text
        and ", on " not in figure.layout.title.text
        and figure.layout.annotations[0].text == "none"
    )
    with pytest.raises(UsageError, match="no two mechanisms have both a score and a cost; measure one: cab run"):
        tradeoff(Results(table_of(*scores), environments()))


def test_a_learning_curve_is_the_validations_by_step() -> None:
    steps = [with_columns(training_rows("softmax", x), step=step) for step, x in ((20, 0.5), (10, 0.4))]
    (line,) = training(Results(table_of(*steps), environments())).data
    assert list(line.x) == [10, 20] and list(line.y) == [0.4, 0.5]
    with pytest.raises(UsageError, match="no training"):
        training(GRID)


def test_the_quality_is_the_half_widths_in_percent_by_length() -> None:
    short, long = quality(GRID).data
    assert short.name.startswith("256<br>100% of 10") and list(long.y) == pytest.approx([20.0] * 10)
    with pytest.raises(UsageError, match="no cost with an interval"):
        quality(Results(table_of(case_rows({"flops": 1.0})), environments()))


def test_where_one_wins_is_a_dot_with_its_interval_or_an_arrow() -> None:
    costs = {"softmax": (1.0, 4.0, 16.0), "early": (0.1, 0.2, 0.4), "late": (2.0, 4.8, 9.0), "never": (3.0, 9.0, 36.0)}
    cases = [
        case_rows({"latency": (x, x * 0.95, x * 1.05)}, mechanism=name, n=n, m=n)
        for name, of in costs.items()
        for n, x in zip((256, 512, 1024), of, strict=True)
    ]
    cases += [with_columns(rows, mechanism="leak", grade="leaky") for rows in cases[3:6]]
    (trace,) = wins(Results(table_of(*cases), environments())).data
    assert list(trace.y) == ["never", "late", "early"]  # the first at the top
    assert list(trace.marker.symbol) == ["triangle-right", "circle", "triangle-left"]
    assert trace.x[0] == 1024 and trace.x[2] == 256 and 512 < trace.x[1] < 1024
    assert trace.error_x.arrayminus[1] > 0 and trace.error_x.array[1] > 0 and trace.error_x.array[0] == 0
    with pytest.raises(UsageError, match="two lengths"):
        wins(Results(table_of(cases[0]), environments()))


def test_a_name_is_no_markup() -> None:
    rows = [case_rows({"latency": 1.0}, mechanism="<b>x</b>", n=n, m=n) for n in (256, 512)]
    rows += [case_rows({"latency": 1.0}, n=n, m=n) for n in (256, 512)]
    assert "&lt;b&gt;x&lt;/b&gt;" in {trace.name for trace in curve(Results(table_of(*rows), environments())).data}


def test_html_holds_its_script_and_other_formats_say_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = curve(GRID)
    write_picture(figure, tmp_path / "curve.html")
    text = (tmp_path / "curve.html").read_text()
    assert "plotly.js v" in text and "cdn.plot.ly/plotly" not in text

    def no_browser(**_: object) -> bytes:
        raise RuntimeError("no browser")

    monkeypatch.setattr(type(figure), "to_image", lambda self, **options: no_browser(**options))
    with pytest.raises(UsageError, match="the extra `pictures` and a Chromium"):
        write_picture(figure, tmp_path / "curve.png")
    with pytest.raises(UsageError, match="unknown format"):
        write_picture(figure, tmp_path / "curve.gif")


def test_a_fault_of_ours_is_not_taken_for_a_missing_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(self: object, **options: object) -> bytes:
        raise TypeError("ours")

    figure = curve(GRID)
    monkeypatch.setattr(type(figure), "to_image", fault)
    with pytest.raises(TypeError, match="ours"):
        write_picture(figure, tmp_path / "curve.png")


def test_a_png_is_drawn_where_there_is_a_browser(tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="no kaleido: PNG is not drawn")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))):
        pytest.skip("no Chromium and no Chrome: PNG is not drawn")
    write_picture(curve(GRID), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
