"""The data of the page's plot."""

from cab.analysis.ranking import leaderboard
from cab.report.plot import plot_data
from tests.analysis.example_rows import case_rows, environments, table_of


def test_the_plot_holds_every_value_and_interval_in_one_unit() -> None:
    cases = [
        case_rows({"latency": (n / 1e6, n / 2e6, n / 0.5e6)}, pattern=pattern, n=n, m=n)
        for n in (64, 128)
        for pattern in ("NS", "CC")
    ]
    (view,) = plot_data(leaderboard(table_of(*cases), environments()), name_machines=False)["views"]
    assert (view["patterns"], view["lengths"], view["metrics"][0]["title"]) == (["NS", "CC"], [64, 128], "latency (µs)")
    assert [line["points"][1][:4] for line in view["series"]] == [[128, 128.0, 64.0, 256.0]] * 2
    low, high = view["metrics"][0]["range"]
    assert 10**low < 32 and 10**high > 256
