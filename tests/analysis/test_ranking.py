"""The order of the lines on a board, their marks, their labels and their headline."""

import pytest

from cab.analysis import ranking
from tests.analysis.example_rows import board_of, case_rows, lines_by_label, training_rows, with_columns


def test_the_best_comes_first_and_what_overlaps_it_is_tied() -> None:
    board = board_of(
        training_rows("linear", (0.60, 0.58, 0.62)),
        training_rows("softmax", (0.64, 0.62, 0.66)),
        training_rows("local", (0.5, 0.4, 0.61)),
    )
    assert [(line.label, line.rank, line.cells["accuracy"].mark) for line in board.lines] == [
        ("softmax", 1, "best"),
        ("linear", 2, "tied"),
        ("local", 3, ""),
    ]
    fastest = board_of(case_rows({"latency": 2.0}), case_rows({"latency": 1.0}, mechanism="linear"))
    assert [line.label for line in fastest.lines] == ["linear", "softmax"]


def test_a_metric_without_a_declared_direction_ranks_nothing() -> None:
    board = board_of(*(case_rows({"parameters": x}, mechanism=name) for name, x in {"b": 1.0, "a": 3.0}.items()))
    assert board.headline.higher_is_better is None
    assert [(line.label, line.rank, line.ranks) for line in board.lines] == [("a", None, None), ("b", None, None)]


def test_where_most_are_the_best_none_is_marked() -> None:
    board = board_of(*(case_rows({"flops": 1e9 if i else 2e9}, mechanism=f"m{i}") for i in range(4)))
    assert {line.cells["flops"].mark for line in board.lines} == {""}


def test_floors_and_leaky_mechanisms_have_no_rank() -> None:
    board = board_of(
        training_rows("none", (0.9, 0.8, 1.0)),
        training_rows("peek", (0.95, 0.9, 1.0), grade="leaky"),
        training_rows("softmax", (0.6, 0.5, 0.7)),
        training_rows("local", (0.96, 0.95, 0.97)),
    )
    assert [(line.label, line.kind, line.rank) for line in board.lines] == [
        ("local", "ranked", 1),
        ("softmax", "ranked", 2),
        ("none", "control", None),
        ("peek", "leaky", None),
    ]
    assert [line.at_floor for line in board.lines] == [True, True, False, False]
    assert lines_by_label(board)["local"].cells["accuracy"].mark == "best"


def test_controls_have_no_rank_on_boards_of_cost_and_are_never_the_best() -> None:
    times = {"mean": 1.0, "none": 0.5, "linear": 2.0, "local": 3.0, "softmax": 4.0}
    board = board_of(*(case_rows({"latency": (t, t * 0.9, t * 1.1)}, mechanism=m) for m, t in times.items()))
    assert [(line.label, line.rank) for line in board.lines] == [
        ("linear", 1),
        ("local", 2),
        ("softmax", 3),
        ("none", None),
        ("mean", None),
    ]
    assert [line.label for line in board.lines if line.cells["latency"].mark == "best"] == ["linear"]


def test_a_rank_is_the_range_that_the_intervals_allow() -> None:
    intervals = {"a": (1.0, 0.9, 1.1), "b": (2.0, 1.5, 2.5), "c": (2.4, 2.2, 2.6), "d": (5.0, 4.0, 6.0)}
    board = board_of(*(case_rows({"latency": interval}, mechanism=name) for name, interval in intervals.items()))
    assert [line.ranks for line in board.lines] == [(1, 1), (2, 3), (2, 3), (4, 4)]
    scores = board_of(*(training_rows(name, interval) for name, interval in intervals.items()))
    assert [(line.label, line.ranks) for line in scores.lines] == [
        ("d", (1, 1)),
        ("c", (2, 3)),
        ("b", (2, 3)),
        ("a", (4, 4)),
    ]


def test_an_accuracy_stays_between_0_and_1() -> None:
    seeds = [training_rows("softmax", (value, value - 0.01, value), seed=i) for i, value in enumerate((0.9, 1.0))]
    cell = board_of(*seeds).lines[0].cells["accuracy"]
    assert cell.high == 1.0 and cell.low is not None and cell.low < 0.9


def test_a_mechanism_without_closed_flops_shows_what_was_counted() -> None:
    counted = with_columns(case_rows({"flops": 7e9}, mechanism="mine"), metric="flops_counted")
    lines = lines_by_label(board_of(case_rows({"flops": 5e9}), counted))
    assert (lines["mine"].cells["flops"].value, lines["mine"].cells["flops"].counted) == (7e9, True)
    assert not lines["softmax"].cells["flops"].counted


def test_a_score_clear_of_the_floor_is_not_at_it() -> None:
    board = board_of(training_rows("none", (0.5, 0.48, 0.52)), training_rows("softmax", (0.6, 0.58, 0.62)))
    assert not lines_by_label(board)["softmax"].at_floor


def test_a_seed_that_failed_is_named_beside_the_mean_of_the_others() -> None:
    failed = training_rows("softmax", ("error", "the loss is NaN"), seed=7)
    board = board_of(training_rows("softmax", (0.6, 0.5, 0.7)), failed)
    cell = board.lines[0].cells["accuracy"]
    assert (cell.value, cell.status, cell.seeds, cell.seeds_asked) == (0.6, "error", 1, 2)
    assert cell.reasons == ["error: the loss is NaN (seed 7)"]


def test_one_wrong_seed_leaves_no_number() -> None:
    board = board_of(
        training_rows("agent", (0.7, 0.6, 0.8), seed=0),
        training_rows("agent", ("wrong", "law causal"), seed=1),
        training_rows("softmax", (0.6, 0.5, 0.7)),
    )
    line = lines_by_label(board)["agent"]
    assert line.rank is None and line.cells["accuracy"].value is None and line.status == "wrong"


def test_what_has_no_interval_yet_is_told_from_nothing() -> None:
    board = board_of(
        case_rows({"latency": (1.0, None, None)}, converged=False, stop_reason="one process gives no interval"),
        case_rows({"latency": (2.0, 1.9, 2.1)}, mechanism="linear"),
    )
    assert lines_by_label(board)["linear"].cells["latency"].mark == "tied"


def test_a_tasks_first_metric_is_its_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_task_metrics", lambda task: ["f1", "accuracy"])
    training = {"task": "mine", "level": "model", "pass": "train", "data_source": "d"}
    scores = {"accuracy": (0.9, 0.8, 1.0), "f1": (0.5, 0.4, 0.6)}
    assert board_of(case_rows(scores, **training)).headline.name == "f1"


def test_of_one_unit_a_meters_first_metric_comes_first_whatever_was_measured_first() -> None:
    names = ("bytes_moved", "latency", "bytes_needed", "peak_resident", "peak_allocated")
    for order in (names, names[::-1]):
        board = board_of(case_rows(dict.fromkeys(order, 1.0)))
        assert [metric.name for metric in board.metrics[:2]] == ["latency", "peak_allocated"]


def test_lines_are_named_by_what_sets_them_apart() -> None:
    cases = [case_rows({"latency": 1.0}, mechanism="local", params={"window": w, "blocks": 2}) for w in (8, 16)]
    cases += [case_rows({"latency": 1.0}), case_rows({"latency": 1.0}, backend="sdpa")]
    labels = ["local window=16", "local window=8", "softmax eager", "softmax sdpa"]
    assert sorted(lines_by_label(board_of(*cases))) == labels


def test_a_meters_own_share_is_no_score() -> None:
    share = with_columns(
        case_rows({"latency": 1.0}),
        metric="parameters_over_softmax",
        unit="fraction",
        value=0.2,
        converged=None,
        stop_reason="more than 10 % above softmax's layer",
    )
    board = board_of(case_rows({"latency": 1.0}), share)
    assert board.headline.name == "latency"
    assert board.lines[0].cells["parameters_over_softmax"].reasons == ["more than 10 % above softmax's layer"]
