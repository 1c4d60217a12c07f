"""Where a mechanism starts to win is bracketed by what was measured; CAB's own procedure gives CAB's own numbers."""

import io

import pandas as pd
import pytest
from rich.console import Console

from cab.analysis.curves import Point
from cab.analysis.efficiency_length import efficiency_length, efficiency_length_cab, efficiency_lengths
from cab.analysis.growth import declared_exponent, growths
from cab.report.winning import print_winning
from cab.store.table import COLUMNS

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)


def exact(*values: float, lengths: tuple[int, ...] = LENGTHS, spread: float = 0.0) -> list[Point]:
    return [Point(n, v, v * (1 - spread), v * (1 + spread)) for n, v in zip(lengths, values, strict=False)]


def test_cabs_procedure_reproduces_its_published_lengths_of_abc() -> None:
    time = [0.472, 0.628, 0.721, 0.981, 3.67, 18.437], [0.648, 0.59, 0.602, 0.91, 1.006, 1.509]
    memory = [81, 265, 952, 3604, 14020, 55300], [42, 80, 156, 308, 612, 1220]
    assert efficiency_length_cab(LENGTHS, *time, drop_first=True) == pytest.approx(1877.3, abs=0.1)
    assert efficiency_length_cab(LENGTHS, *memory, drop_first=False) == pytest.approx(69.5, abs=0.1)


def test_two_curves_that_never_meet_have_no_length_of_cabs() -> None:
    assert efficiency_length_cab((1, 2, 3, 4), [2, 5, 10, 17], [-9, -8, -7, -6], drop_first=False) is None


def test_ours_lies_between_the_measured_lengths_that_bracket_it() -> None:
    found = efficiency_length(exact(2, 2, 2, 2), exact(0.5, 1, 4, 16))
    assert found is not None and found.answer == "from" and found.length == pytest.approx((512 * 1024) ** 0.5)
    assert found.low == found.high == found.length  # exact costs: nothing is uncertain
    wide = efficiency_length(exact(2, 2, 2, 2, spread=0.1), exact(0.5, 1, 4, 16, spread=0.1))
    assert wide is not None and wide.low is not None and wide.high is not None and wide.length is not None
    assert 512 < wide.low < wide.length < wide.high < 1024


def test_a_win_that_is_lost_again_does_not_count() -> None:
    found = efficiency_length(exact(2, 0.5, 8, 2), exact(1, 1, 4, 16))
    assert found is not None and found.length is not None and 1024 < found.length < 2048


def test_already_and_never_are_answers_and_say_whether_they_are_certain() -> None:
    already = efficiency_length(exact(1, 1), exact(2, 4))
    assert already is not None and str(already) == "already at 256"
    never = efficiency_length(exact(3, 5), exact(2, 4))
    assert never is not None and str(never) == "never up to 512"
    close = efficiency_length(exact(1, 1, spread=0.5), exact(1.2, 4))
    assert close is not None and str(close) == "already at 256 (not certain)"
    assert str(efficiency_length(exact(3, 5, spread=0.5), exact(2, 4))) == "never up to 512 (not certain)"


def test_an_open_end_of_an_interval_is_written_as_one() -> None:
    assert str(efficiency_length(exact(2, 0.9, spread=0.9), exact(1, 1))) == "from 467 (? to ?)"


def test_curves_without_a_common_length_have_no_answer() -> None:
    assert efficiency_length(exact(1, lengths=(256,)), exact(1, lengths=(512,))) is None


@pytest.mark.parametrize(
    ("cost", "exponent"),
    [
        ("O(n m d)", 2), ("O((n + m) d^2)", 1), ("O(n window d)", 1), ("O((n + m) r d + r^3)", 1), ("O(1)", 0),
        ("O(n b (5 + r) d)", 1), ("O(n log n d)", 1), ("O(n sqrt n d)", 1.5), ("O(n^2 d)", 2), ("quadratic", None),
        ("O(n (w + n / c) d)", None),
    ],
)  # fmt: skip
def test_the_declared_power_of_the_length_is_read_from_the_cost(cost: str, exponent: float | None) -> None:
    assert declared_exponent(cost) == exponent


def table(values: dict[tuple[str, str], list[float]], metric: str = "latency") -> pd.DataFrame:
    found = []
    for (mechanism, backend), costs in values.items():
        for n, value in zip(LENGTHS, costs, strict=False):
            row = dict.fromkeys(COLUMNS)
            row |= {"mechanism": mechanism, "params": "{}", "backend": backend, "n": n, "m": n, "metric": metric}
            row |= {"pattern": "NS", "pass": "forward", "status": "ok", "value": value, "settings": "{}"}
            found.append(row)
    return pd.DataFrame(found, columns=COLUMNS)


def test_every_softmax_that_was_measured_is_a_rival() -> None:
    rows = table({("linear", "eager"): [2, 2, 2], ("softmax", "eager"): [1, 4, 16], ("softmax", "sdpa"): [1, 1, 1]})
    found = efficiency_lengths(rows)
    assert list(found["against"]) == ["softmax eager", "softmax sdpa"]
    assert list(found["answer"]) == ["from", "never"] and list(found["longest"]) == [1024, 1024]
    assert efficiency_lengths(rows[rows["mechanism"] == "linear"]).empty


def test_a_cost_that_outgrows_its_card_is_marked() -> None:
    rows = table({("linear", "eager"): [1.0, 2.0, 4.0, 8.0], ("softmax", "eager"): [1.0, 8.0, 64.0, 512.0]})
    found = growths(rows).set_index("mechanism")
    assert found.loc["linear", "exponent"] == pytest.approx(1) and bool(found.loc["linear", "agrees"])
    assert found.loc["softmax", "exponent"] == pytest.approx(3) and not bool(found.loc["softmax", "agrees"])
    assert found.loc["softmax", "declared"] == 2


def test_memory_is_held_to_no_card_and_two_lengths_to_no_fit() -> None:
    rows = table({("linear", "eager"): [1.0, 8.0, 64.0]}, metric="peak_allocated")
    assert growths(rows)["agrees"].isna().all()
    assert growths(table({("linear", "eager"): [1.0, 2.0]})).empty


def test_a_cost_of_one_process_leaves_the_answer_open() -> None:
    rows = table({("linear", "eager"): [1, 1, 1], ("softmax", "eager"): [2, 4, 16]})
    (sure,) = efficiency_lengths(rows)["text"]
    (open_,) = efficiency_lengths(rows.assign(converged=rows["mechanism"] != "linear"))["text"]
    assert (sure, open_) == ("already at 256", "already at 256 (not certain)")


def test_the_report_keeps_curves_of_other_questions_apart() -> None:
    lines = []
    for batch, linear in ((2, [8, 8, 8]), (16, [0.5, 0.5, 0.5])):
        rows = table({("linear", "eager"): linear, ("softmax", "eager"): [1, 4, 16]}).assign(batch=batch)
        lines.append(rows)
    out = io.StringIO()
    print_winning(efficiency_lengths(pd.concat(lines)), growths(pd.concat(lines)), Console(file=out, width=200))
    found = [line.split() for line in out.getvalue().splitlines() if line.startswith("linear")]
    assert len(found) == 2 and {tuple(line[line.index("batch") :][:2]) for line in found} == {
        ("batch", "2"), ("batch", "16"),
    }  # fmt: skip
    first, second = ("".join(line) for line in found)
    assert "already" in (first if "batch16" in first else second) and "from" in (first if "batch2" in first else second)
