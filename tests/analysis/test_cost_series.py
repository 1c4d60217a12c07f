"""The series of the plot."""

from cab.analysis.cost_series import plot_views
from cab.analysis.leaderboard import Metric
from cab.analysis.ranking import leaderboard
from tests.analysis.example_rows import case_rows, table_of


def test_softmax_has_the_first_colour_in_every_view() -> None:
    cases = [case_rows({"latency": 1.0}, mechanism=name) for name in ("agent", "softmax", "zeta")]
    (view,) = plot_views(leaderboard(table_of(*cases)))
    (series,) = view.series.values()
    assert {line.label: line.label_index for line in series} == {"softmax": 0, "agent": 1, "zeta": 2}


def test_a_view_has_the_points_of_every_length_and_leaves_out_what_is_not_above_zero() -> None:
    cases = [case_rows({"flops": 1e9 * n, "latency": n / 1e6, "peak_allocated": 0}, n=n, m=n) for n in (128, 64)]
    cross = case_rows({"latency": 1.0}, pattern="NC", n=64, m=256)
    self_view, cross_view = plot_views(leaderboard(table_of(*cases, cross)))
    assert self_view.lengths == [64, 128] and cross_view.lengths == [64]
    assert [metric.name for metric in self_view.series] == ["latency", "flops"]
    (latency,) = self_view.series[Metric("latency", "seconds", False, False)]
    assert [(point.n, point.value) for point in latency.points] == [(64, 64e-6), (128, 128e-6)]
