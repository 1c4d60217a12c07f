"""Filters and limits."""

import pytest

from cab.analysis.results import Results
from cab.analysis.selection import filters_of, limits_of, metric_units, selected
from cab.errors import UsageError
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows, with_columns

ROWS = table_of(
    *(
        case_rows({"latency": second, "peak_allocated": mebibytes * 2.0**20}, mechanism=name, pattern=pattern)
        for pattern in ("CC", "NS")
        for name, second, mebibytes in (("fast", 1.0, 100), ("lean", 2.0, 10), ("none", 0.1, 200))
    ),
    case_rows({"latency": 0.5}, mechanism="unknown", pattern="CC"),
)


def test_filters_narrow_the_rows() -> None:
    rows = selected(ROWS, filters_of(["pattern=CC", "seq_len=512,1024", "mechanism=fast,lean"]))
    assert set(rows["pattern"]) == {"CC"} and set(rows["mechanism"]) == {"fast", "lean"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("patern=CC", "did you mean 'pattern'"),
        ("pattern=CS", "no result has pattern=CS; the results have CC, NS"),
        ("pattern", "is no filter"),
    ],
)
def test_a_filter_that_fits_nothing_is_refused(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        selected(ROWS, filters_of([word]))


def test_floors_stay_beside_a_mechanism_and_do_not_hide_a_wrong_name() -> None:
    floor = with_columns(training_rows("majority", 0.5), grade="floor")
    rows = table_of(training_rows("softmax", 0.9), training_rows("linear", 0.8), floor)
    assert set(selected(rows, {"mechanism": ["linear"]})["mechanism"]) == {"linear", "majority"}
    with pytest.raises(UsageError, match="no result has mechanism=typo; the results have linear, softmax"):
        selected(rows, {"mechanism": ["typo"]})


def test_what_exceeds_a_limit_or_has_no_value_for_it_is_left_out_and_the_others_are_ranked_anew() -> None:
    limits = limits_of(["peak_allocated=64MiB"], metric_units(ROWS))
    board = Results(selected(ROWS, {"pattern": ["CC"]}), environments(), tuple(limits)).boards[0]
    assert [(line.label, line.rank) for line in board.lines] == [("lean", 1), ("none", None)]


def test_a_board_is_ranked_by_another_metric() -> None:
    board = Results(ROWS, environments(), sort="peak_allocated").boards[0]
    assert board.headline.name == "peak_allocated" and board.lines[0].label == "lean"


def test_a_filter_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="pattern is given twice: write pattern=CC,CS"):
        filters_of(["pattern=CC", "seq_len=512", "pattern=CS"])


def test_a_limit_names_its_unit_where_there_are_several() -> None:
    with pytest.raises(UsageError, match="of which unit. Accepted: latency=2s, latency=2ms, latency=2us"):
        limits_of(["latency=2"], metric_units(ROWS))
    (limit,) = limits_of(["accuracy=0.5"], {"accuracy": "fraction"})
    assert limit.value == 0.5


@pytest.mark.parametrize(
    "text", ["peak_allocated=64ms", "latency=fast", "latency=1 parsec", "speed=1s", "latency=1.2.3"]
)
def test_a_limit_in_another_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        limits_of([text], metric_units(ROWS))
