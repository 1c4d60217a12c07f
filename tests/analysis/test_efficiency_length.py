"""The efficiency length is bracketed by measured lengths. CAB's procedure gives CAB's published numbers."""

import pandas as pd
import pytest

from cab.analysis.curves import CostAtLength
from cab.analysis.efficiency_length import efficiency_length, efficiency_length_cab, efficiency_lengths
from tests.analysis.example_rows import LENGTHS, cost_rows


def costs(*values: float, lengths: tuple[int, ...] = LENGTHS, spread: float = 0.0) -> list[CostAtLength]:
    """Make costs whose intervals reach `spread` times the value to both sides; by default the costs are exact."""
    return [CostAtLength(n, v, v * (1 - spread), v * (1 + spread)) for n, v in zip(lengths, values, strict=False)]


def test_cabs_procedure_reproduces_its_published_lengths_of_abc() -> None:
    time = [0.472, 0.628, 0.721, 0.981, 3.67, 18.437], [0.648, 0.59, 0.602, 0.91, 1.006, 1.509]
    memory = [81, 265, 952, 3604, 14020, 55300], [42, 80, 156, 308, 612, 1220]
    assert efficiency_length_cab(LENGTHS, *time, drop_first=True) == pytest.approx(1877.3, abs=0.1)
    assert efficiency_length_cab(LENGTHS, *memory, drop_first=False) == pytest.approx(69.5, abs=0.1)


def test_two_curves_that_never_meet_have_no_length_of_cabs() -> None:
    assert efficiency_length_cab((1, 2, 3, 4), [2, 5, 10, 17], [-9, -8, -7, -6], drop_first=False) is None


def test_ours_lies_between_the_measured_lengths_that_bracket_it() -> None:
    sharp = efficiency_length(costs(2, 2, 2, 2), costs(0.5, 1, 4, 16))
    assert sharp is not None and sharp.answer == "from" and sharp.length == pytest.approx((512 * 1024) ** 0.5)
    assert sharp.low == sharp.high == sharp.length  # exact costs
    wide = efficiency_length(costs(2, 2, 2, 2, spread=0.1), costs(0.5, 1, 4, 16, spread=0.1))
    assert wide is not None and wide.low is not None and wide.high is not None and wide.length is not None
    assert 512 < wide.low < wide.length < wide.high < 1024


def test_a_win_that_is_lost_again_does_not_count() -> None:
    result = efficiency_length(costs(2, 0.5, 8, 2), costs(1, 1, 4, 16))
    assert result is not None and result.length is not None and 1024 < result.length < 2048


def test_already_and_never_are_answers_and_say_whether_they_are_certain() -> None:
    already = efficiency_length(costs(1, 1), costs(2, 4))
    assert already is not None and str(already) == "already at 256"
    never = efficiency_length(costs(3, 5), costs(2, 4))
    assert never is not None and str(never) == "not at 512, the longest"
    close = efficiency_length(costs(1, 1, spread=0.5), costs(1.2, 4))
    assert close is not None and str(close) == "already at 256 (not certain)"
    assert str(efficiency_length(costs(3, 5, spread=0.5), costs(2, 4))) == "not at 512, the longest (not certain)"


def test_an_open_end_of_an_interval_is_written_as_one() -> None:
    assert str(efficiency_length(costs(2, 0.9, spread=0.9), costs(1, 1))) == "from 467 (? to ?)"


def test_curves_without_a_common_length_have_no_answer() -> None:
    assert efficiency_length(costs(1, lengths=(256,)), costs(1, lengths=(512,))) is None


def test_every_softmax_that_was_measured_is_a_rival() -> None:
    rows = cost_rows({("linear", "eager"): [2, 2, 2], ("softmax", "eager"): [1, 4, 16], ("softmax", "sdpa"): [1, 1, 1]})
    table = efficiency_lengths(rows)
    assert list(table["against"]) == ["softmax eager", "softmax sdpa"]
    assert list(table["answer"]) == ["from", "never"] and list(table["longest"]) == [1024, 1024]
    assert efficiency_lengths(rows[rows["mechanism"] == "linear"]).empty


def test_a_cost_of_one_process_leaves_the_answer_open() -> None:
    rows = cost_rows({("linear", "eager"): [1, 1, 1], ("softmax", "eager"): [2, 4, 16]})
    of_one_process = rows.assign(converged=rows["mechanism"] != "linear")
    assert list(efficiency_lengths(rows)["text"]) == ["already at 256"]
    assert list(efficiency_lengths(of_one_process)["text"]) == ["already at 256 (not certain)"]


def test_one_length_says_nothing_of_where_a_mechanism_starts_to_win() -> None:
    table = cost_rows({("softmax", "eager"): [2.0], ("linear", "eager"): [1.0]})
    assert efficiency_lengths(table).empty


def test_seeds_are_one_curve_and_controls_have_none() -> None:
    costs = {("softmax", "eager"): [1.0, 4.0], ("linear", "eager"): [2.0, 3.0], ("mean", "eager"): [0.1, 0.2]}
    seeds = [cost_rows(costs).assign(seed=seed) for seed in (0, 1)]
    (answer,) = efficiency_lengths(pd.concat(seeds, ignore_index=True)).to_dict("records")
    assert answer["mechanism"] == "linear" and (answer["shortest"], answer["longest"]) == (256, 512)
