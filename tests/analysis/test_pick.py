"""Which mechanism is picked, and why the others are not."""

from typing import Any

import pandas as pd
import pytest

from cab.analysis.pick import UNKNOWN_SCORE, Pick, pick
from cab.analysis.selection import filters_of, limits_of, metric_units
from cab.errors import UsageError
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows

MIB = 2.0**20
COSTS = {"fast": (1.0, 10), "lean": (2.0, 4), "large": (0.5, 900), "none": (0.1, 0), "mean": (0.2, 0)}


def costs(n: int = 1024, **changes: Any) -> list[list[dict[str, Any]]]:
    """Return the cases of COSTS at one length, in proportion to it."""
    cases = []
    for name, (second, mebibytes) in COSTS.items():
        time = second * n / 1024
        metrics = {"latency": (time, time * 0.95, time * 1.05), "peak_allocated": mebibytes * MIB * n / 1024}
        cases.append(case_rows(metrics, mechanism=name, pattern="CC", n=n, m=n, **changes))
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
