"""CAB's index as published, and the aggregate that needs no population."""

from typing import Any

import pytest

from cab.analysis.aggregates import aggregated, compositional_index
from cab.analysis.leaderboard import Board
from cab.analysis.published import published_rows
from cab.analysis.ranking import leaderboard
from tests.analysis.example_rows import environments, table_of, training_rows, with_columns

ABC_PERPLEXITY = 31.53  # on CAB's board; its README says 29.13


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_cabs_boards_follow_from_its_constants(pattern: str) -> None:
    rows = [row for row in published_rows() if row["benchmark"] == "CAB" and row["pattern"] == pattern]
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row["mechanism"], {})[f"{row['task']} {row['metric']}"] = float(row["value"])
    published = {name: of["all compositional_index"] for name, of in values.items() if "all compositional_index" in of}
    assert len(published) >= 3
    for name, index in published.items():
        own = values[name]
        if (pattern, name) == ("CS", "abc"):
            own = {**own, "lm perplexity": ABC_PERPLEXITY}
        assert compositional_index(pattern, own) == pytest.approx(index, abs=0.02), name


def test_no_index_without_every_task() -> None:
    assert compositional_index("CC", {"cab_tts_transformer mcd": 4.0, "cab_tts_transformer msd": 2.0}) is None


def boards_of(scores: dict[str, dict[str, float]]) -> list[Board]:
    """Make boards of task -> mechanism -> accuracy."""
    cases = [
        training_rows(mechanism, (value, value - 0.01, value + 0.01), task=task)
        for task, of in scores.items()
        for mechanism, value in of.items()
    ]
    return leaderboard(table_of(*cases), environments())


def test_none_is_0_and_softmax_is_1_and_another_mechanism_changes_nobody() -> None:
    scores = {
        "a": {"none": 0.2, "softmax": 0.6, "linear": 0.4},
        "b": {"none": 0.1, "softmax": 0.9, "linear": 0.7},
    }
    before = {each.mechanism: each for each in aggregated(boards_of(scores))}
    assert before["softmax"].value == pytest.approx(1.0)
    assert before["linear"].value == pytest.approx((0.5 + 0.75) / 2)
    assert "none" not in before
    scores["a"]["other"], scores["b"]["other"] = 0.99, 0.99
    after = {each.mechanism: each for each in aggregated(boards_of(scores))}
    assert after["linear"].value == before["linear"].value and after["linear"].low == before["linear"].low


def test_ranks_range_over_leaving_one_task_out_and_a_missing_task_gives_no_rank() -> None:
    scores = {
        "a": {"none": 0.0, "softmax": 1.0, "x": 0.9, "y": 0.1, "z": 1.0},
        "b": {"none": 0.0, "softmax": 1.0, "x": 0.2, "y": 0.5},
        "c": {"none": 0.0, "softmax": 1.0, "x": 0.4, "y": 0.45},
    }
    by_name = {each.mechanism: each for each in aggregated(boards_of(scores))}
    assert by_name["softmax"].ranks == (1, 1) and by_name["x"].ranks == (2, 3) and by_name["y"].ranks == (2, 3)
    assert by_name["z"].ranks is None and by_name["z"].missing == ("b", "c")


def test_a_task_on_which_softmax_learned_nothing_does_not_count() -> None:
    scores = {"a": {"none": 0.2, "softmax": 0.6, "linear": 0.4}, "b": {"none": 0.5, "softmax": 0.5, "linear": 0.9}}
    (linear,) = [each for each in aggregated(boards_of(scores)) if each.mechanism == "linear"]
    assert linear.tasks == 1 and linear.value == pytest.approx(0.5) and linear.low is None
    assert linear.remarks == ("one seed",)


def test_the_interval_is_over_seeds_too_and_what_limits_the_mean_is_said() -> None:
    def rows(mechanism: str, task: str, *values: float, **changes: Any) -> list[dict[str, Any]]:
        return [
            row
            for seed, x in enumerate(values)
            for row in training_rows(mechanism, (x, x - 0.01, x + 0.01), task=task, seed=seed, **changes)
        ]

    cases = [rows(name, task, x) for task in ("a", "b") for name, x in (("none", 0.0), ("softmax", 1.0))]
    cases += [rows("steady", task, 0.5, 0.5) for task in ("a", "b")]
    cases += [rows("shaky", task, 0.3, 0.7) for task in ("a", "b")]
    cases += [rows("wide", "a", 0.5), rows("wide", "b", 0.5, 0.5)]
    cases += [rows(name, "b", x, n=999, m=999) for name, x in (("none", 0.0), ("softmax", 1.0), ("other", 0.5))]
    cases += [rows(name, "c", x) for name, x in (("none", 0.0), ("softmax", 1.0))]  # tells of no mechanism
    by_name = {each.mechanism: each for each in aggregated(leaderboard(table_of(*cases), environments()))}
    steady, shaky = by_name["steady"], by_name["shaky"]
    assert (steady.value, steady.low, steady.high) == pytest.approx((0.5, 0.5, 0.5))
    assert shaky.value == pytest.approx(0.5) and shaky.low == pytest.approx(0.3) and shaky.high == pytest.approx(0.7)
    assert steady.remarks == ("not every size and recipe: b in 1 of 2",)
    assert by_name["wide"].remarks == ("one seed: a", "not every size and recipe: b in 1 of 2")


def test_one_task_of_several_seeds_has_an_interval() -> None:
    scores = {"none": (0.0,), "softmax": (1.0,), "x": (0.4, 0.6)}
    cases = [training_rows(name, (v, v, v), seed=i) for name, of in scores.items() for i, v in enumerate(of)]
    (x,) = [each for each in aggregated(leaderboard(table_of(*cases), environments())) if each.mechanism == "x"]
    assert (x.low, x.high) == pytest.approx((0.4, 0.6))


def test_a_board_on_which_softmax_is_not_told_apart_from_none_does_not_decide() -> None:
    scores = {"a": {"none": 0.5, "softmax": 0.501, "agent": 0.55}, "b": {"none": 0.1, "softmax": 0.9, "agent": 0.3}}
    (agent,) = [each for each in aggregated(boards_of(scores)) if each.mechanism == "agent"]
    assert agent.tasks == 1 and agent.value == pytest.approx(0.25)


def test_a_score_counts_once_on_however_many_machines() -> None:
    cases = [
        training_rows(name, (x, x - 0.01, x + 0.01), task=task, seed=seed)
        for task in "ab"
        for seed in (0, 1)
        for name, x in (("none", 0.1), ("softmax", 0.9), ("agent", 0.5 + seed / 10))
    ]
    timed = [
        with_columns(
            training_rows("softmax", 0.5, task=task),
            metric="latency",
            unit="seconds",
            value=1.0,
            environment_id=machine,
        )
        for task in "ab"
        for machine in ("one", "two")
    ]
    alone = aggregated(leaderboard(table_of(*cases), environments("one", "two")))
    boards = leaderboard(table_of(*cases, *timed), environments("one", "two"))
    assert len(boards) == 4 and aggregated(boards) == alone
