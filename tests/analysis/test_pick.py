"""Which mechanism is picked, and why the others are not."""

from typing import Any

import pandas as pd
import pytest

from cab.analysis.pick import UNKNOWN_SCORE, Pick, pick
from cab.analysis.selection import filters_of, limits_of, metric_units
from cab.errors import UsageError
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows, with_columns

MIB = 2.0**20
COSTS = {"fast": (1.0, 10), "lean": (2.0, 4), "large": (0.5, 900), "none": (0.1, 0), "mean": (0.2, 0)}


def costs(n: int = 1024, m: int | None = None, **changes: Any) -> list[list[dict[str, Any]]]:
    """Return the cases of COSTS at one length, in proportion to it, with as many keys unless `m` says otherwise."""
    cases = []
    for name, (second, mebibytes) in COSTS.items():
        time = second * n / 1024
        metrics = {"latency": (time, time * 0.95, time * 1.05), "peak_allocated": mebibytes * MIB * n / 1024}
        cases.append(case_rows(metrics, mechanism=name, pattern="CC", n=n, m=m or n, **changes))
    return cases


def picked(rows: pd.DataFrame, *words: str, limits: tuple[str, ...] = ("peak_allocated=64MiB",)) -> Pick:
    """Pick for CC, at 1,024 tokens unless a word says otherwise."""
    filters = {"pattern": ["CC"], "seq_len": ["1024"], **filters_of(words)}
    return pick(rows, environments(), filters, limits_of(limits, metric_units(rows)))


def labels(choice: Pick) -> list[str]:
    return [candidate.label for candidate in choice.fitting]


def reasons(choice: Pick) -> dict[str, str]:
    return {candidate.label: candidate.why_not for candidate in choice.out}


def test_what_fits_is_ordered_by_cost_and_controls_are_no_candidates() -> None:
    choice = picked(table_of(*costs()))
    assert labels(choice) == ["fast", "lean"] and choice.quality == UNKNOWN_SCORE
    assert reasons(choice) == {"large": "peak_allocated above 64MiB"}


def test_a_fast_mechanism_that_learned_nothing_does_not_win() -> None:
    scores = {"fast": 0.1, "lean": 0.9, "none": 0.1}
    trained = [training_rows(m, (x, x - 0.02, x + 0.02), pattern="CC", task="recall") for m, x in scores.items()]
    choice = picked(table_of(*costs(), *trained), "task=recall")
    assert labels(choice) == ["lean", "fast"] and [c.group for c in choice.fitting] == [0, 1]
    assert choice.quality.startswith("recall")


def test_equal_scores_are_one_group_in_which_the_cheaper_comes_first() -> None:
    scores = {"fast": 0.88, "lean": 0.9}
    trained = [training_rows(m, (x, x - 0.05, x + 0.05), pattern="CC", task="recall") for m, x in scores.items()]
    choice = picked(table_of(*costs(), *trained))
    assert labels(choice) == ["fast", "lean"] and [c.group for c in choice.fitting] == [0, 0]
    assert reasons(picked(table_of(*costs(), *trained), limits=()))["large"] == UNKNOWN_SCORE


def test_between_measured_lengths_it_interpolates_and_outside_it_does_not() -> None:
    rows = table_of(*costs(512), *costs(2048))
    (fast, _) = picked(rows).fitting
    assert fast.interpolated and fast.costs["latency"].value == pytest.approx(1.0)
    assert fast.costs["peak_allocated"].value == pytest.approx(10 * MIB)
    beyond = picked(rows, "seq_len=4096")
    assert not beyond.fitting and "measured from 512 to 2,048 alone" in reasons(beyond)["fast"]


def test_between_and_beyond_measured_lengths_a_failure_is_the_reason() -> None:
    def failed(n: int, name: str = "big") -> list[dict[str, Any]]:
        return case_rows({"latency": ("oom", "8 GiB of 8")}, mechanism=name, pattern="CC", n=n, m=n)

    half = case_rows({"latency": 1.0, "peak_allocated": MIB}, mechanism="half", pattern="CC", n=512, m=512)
    rows = table_of(*costs(512), *costs(2048), failed(512), failed(2048), half, failed(2048, "half"))
    for length in (1024, 4096):
        why = reasons(picked(rows, f"seq_len={length}"))
        assert why["big"].startswith("oom: ") and why["half"] == "measured from 512 to 512 alone"


def test_leaky_and_failed_mechanisms_fall_out_with_their_reason() -> None:
    leaky = case_rows({"latency": 0.1, "peak_allocated": MIB}, mechanism="peek", pattern="CC", n=1024, m=1024)
    failed = case_rows({"latency": ("oom", "8 GiB of 8")}, mechanism="big", pattern="CC", n=1024, m=1024)
    choice = picked(table_of(*costs(), [{**row, "grade": "leaky"} for row in leaky], failed))
    assert "leaky" in reasons(choice)["peek"] and reasons(choice)["big"] == "oom: 8 GiB of 8"


def test_of_several_conditions_the_usual_ones_are_taken_and_a_filter_takes_others() -> None:
    rows = table_of(*costs(), *costs(batch=16))
    assert picked(rows).conditions["batch"] == "2" and picked(rows, "batch=16").conditions["batch"] == "16"


def test_a_pattern_and_a_length_are_needed() -> None:
    for filters in ({"pattern": ["CC"]}, {"seq_len": ["1024"]}, {"pattern": ["CC"], "seq_len": ["x"]}):
        with pytest.raises(UsageError):
            pick(table_of(*costs()), environments(), filters, [])


@pytest.mark.parametrize("word", ("pattern=CC,CS", "seq_len=1024,2048", "source_len=1024,512", "batch=16,2"))
def test_a_key_that_takes_one_value_refuses_several(word: str) -> None:
    rows = table_of(*costs(), *costs(batch=16), *costs(n=2048))
    with pytest.raises(UsageError, match=f"{word}: cab pick takes one"):
        picked(rows, word)


def test_several_tasks_without_none_are_not_averaged_and_that_is_said() -> None:
    trained = [
        training_rows(name, (x, x - 0.02, x + 0.02), pattern="CC", task=task)
        for task in ("recall", "lra_text")
        for name, x in (("softmax", 0.9), ("fast", 0.5), ("lean", 0.8))
    ]
    choice = picked(table_of(*costs(), *trained))
    assert labels(choice) == ["fast", "lean"] and choice.metric == choice.cost
    assert "name one task, as in task=NAME, of lra_text, recall" in choice.quality


def test_one_task_that_was_timed_on_two_machines_is_one_board_of_scores() -> None:
    trained = [
        training_rows(name, (x, x - 0.02, x + 0.02), pattern="CC", task="recall")
        for name, x in (("softmax", 0.9), ("fast", 0.5), ("lean", 0.8))
    ]
    timed = [
        with_columns(trained[0], metric="latency", unit="seconds", value=1.0, environment_id=machine)
        for machine in ("one", "two")
    ]
    rows = table_of(*costs(), *trained, *timed)
    choice = pick(rows, environments("one", "two"), {"pattern": ["CC"], "seq_len": ["1024"]}, [])
    assert choice.quality.startswith("recall at") and labels(choice) == ["lean", "fast"]


def test_boards_of_a_pick_differ_in_nothing_but_their_length() -> None:
    other_keys = costs(m=8192)
    with_raster = [case_rows({"latency": 0.01}, mechanism="fast", pattern="CC", n=1024, m=1024, settings={"raster": 1})]
    choice = picked(table_of(*costs(), *other_keys, *with_raster), limits=())
    (fast,) = [each for each in choice.fitting if each.label == "fast"]
    assert fast.costs["latency"].value == 1.0
    assert choice.left_out == ["raster=1", "another number of keys than of queries: give source_len="]
    assert picked(table_of(*costs(), *other_keys), "source_len=8192", limits=()).left_out == []


def test_no_two_of_a_group_are_told_apart() -> None:
    # the best score is the least certain: it overlaps both others, which do not overlap each other
    scores = {"large": (0.9, 0.8, 1.0), "lean": (0.89, 0.88, 0.9), "fast": (0.8, 0.78, 0.82)}
    trained = [training_rows(name, each, pattern="CC", task="recall") for name, each in scores.items()]
    choice = picked(table_of(*costs(), *trained), limits=())
    assert [(each.label, each.group) for each in choice.fitting] == [("large", 0), ("lean", 0), ("fast", 1)]


def test_a_score_of_other_hyper_parameters_says_so() -> None:
    trained = [
        training_rows(name, (0.9, 0.8, 1.0), pattern="CC", task="recall", params={"window": 512}) for name in COSTS
    ]
    cost = case_rows({"latency": 1.0}, mechanism="fast", pattern="CC", n=1024, m=1024, params={"window": 16})
    (fast,) = picked(table_of(cost, *trained), limits=()).fitting
    assert fast.scored_as == "window=512"


def test_a_timing_of_one_process_is_told_apart_from_nothing_when_it_is_interpolated() -> None:
    def row(name: str, n: int, seconds: float, sure: bool) -> list[dict[str, Any]]:
        value = (seconds, seconds * 0.99, seconds * 1.01) if sure else (seconds, None, None)
        return case_rows({"latency": value}, mechanism=name, pattern="CC", n=n, m=n, converged=sure)

    cases = [row("a", 512, 1.0, True), row("a", 2048, 4.0, False), row("b", 512, 2.0, True), row("b", 2048, 8.0, True)]
    assert [each.group for each in picked(table_of(*cases), limits=()).fitting] == [0, 0]


def test_a_limit_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(UsageError, match="write METRIC=NUMBER"):
        picked(table_of(*costs()), limits=("latency=1e400s",))
