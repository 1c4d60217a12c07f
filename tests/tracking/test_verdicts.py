"""The rules of a run, on simulated process pairs whose truth is known."""

from math import inf, log

import numpy as np
import pytest

from cab.errors import UsageError
from cab.tracking.signed_rank import Effect
from cab.tracking.verdicts import (
    CONFIRM_PAIRS,
    SCREEN_PAIRS,
    Minimum,
    Samples,
    Verdict,
    exit_code,
    flagged,
    judge,
    screened,
    wanted_pairs,
)

SPREAD = 0.048  # of log ratios between process pairs, as measured on a shared machine
QUIET = [0.001, -0.001, 0.002, -0.002, 0.003, -0.003]


def simulate(random: np.random.Generator, change: float, spread: float = SPREAD, settle: bool = False) -> Samples:
    """Draw the pairs of a case as the procedure would take them."""
    values = list(random.normal(log(1 + change), spread, CONFIRM_PAIRS))
    return Samples(values[: wanted_pairs(values[:SCREEN_PAIRS], settle)], 1e-3)


def verdicts_of_runs(change: float, runs: int = 60, settle: bool = False, spread: float = SPREAD) -> list[str]:
    """Return what is said of one changed case among twenty, in many runs."""
    random = np.random.default_rng(7)
    said = []
    for _ in range(runs):
        cases = {f"unchanged {i}": simulate(random, 0.0, spread, settle) for i in range(19)}
        cases["changed"] = simulate(random, change, spread, settle)
        said.append(judge(cases, Minimum(), settle)["changed"].verdict)
    return said


def test_the_screen_finds_most_of_a_slowdown_of_five_per_cent() -> None:
    random, tries = np.random.default_rng(2), 1000
    for change, least in ((0.05, 0.80), (0.10, 0.96)):
        hits = sum(screened(list(random.normal(log(1 + change), SPREAD, 6))) for _ in range(tries))
        assert hits / tries >= least


def test_the_screen_looks_at_six_pairs_and_at_both_directions() -> None:
    faster = [-0.05, -0.06, -0.04, -0.05, -0.055, -0.045]
    assert screened(faster) and screened([-value for value in faster])
    assert screened(faster + [0.5] * 12)
    assert not screened(faster[:5])
    assert wanted_pairs(faster) == 18 and wanted_pairs(QUIET) == 6 and wanted_pairs(QUIET, settle=True) == 18


def test_unchanged_cases_are_almost_never_slower() -> None:
    random = np.random.default_rng(3)
    said = [
        verdict.verdict
        for _ in range(50)
        for verdict in judge({str(i): simulate(random, 0.0) for i in range(20)}, Minimum()).values()
    ]
    assert said.count("slower") + said.count("faster") <= 5  # of 1,000


def test_slowdowns_are_found_where_the_spread_allows() -> None:
    # the estimate must lie above 3 % as well, so that of +5 % in this spread some are not confirmed
    assert verdicts_of_runs(0.10).count("slower") >= 0.9 * 60
    assert verdicts_of_runs(0.05, spread=0.02).count("slower") >= 0.9 * 60
    assert verdicts_of_runs(-0.10).count("faster") >= 0.9 * 60


def test_a_significant_change_below_the_minimum_is_the_same() -> None:
    values = [0.01 + 0.0001 * i for i in range(18)]
    assert judge({"a": Samples(values, 1.0)}, Minimum())["a"].verdict == "same"


def test_a_change_of_fewer_seconds_than_the_floor_is_not_slower() -> None:
    values = [0.05 + 0.0001 * i for i in range(18)]
    assert judge({"a": Samples(values, 1e-3)}, Minimum())["a"].verdict == "slower"
    assert judge({"a": Samples(values, 5e-5)}, Minimum())["a"].verdict == "unstable"


def test_an_interval_wider_than_the_minimum_is_unstable() -> None:
    assert judge({"a": Samples([0.1, -0.1, 0.2, -0.2, 0.15, -0.12])}, Minimum())["a"].verdict == "unstable"
    assert judge({"a": Samples(QUIET)}, Minimum())["a"].verdict == "same"


def test_settled_cases_in_a_small_spread_are_the_same() -> None:
    assert verdicts_of_runs(0.0, settle=True, spread=0.03).count("same") >= 0.8 * 60


def test_a_case_with_too_few_pairs_is_not_judged() -> None:
    with pytest.raises(ValueError, match="has 6 pairs and needs 18"):
        judge({"a": Samples([0.05, 0.06, 0.04, 0.05, 0.055, 0.045])}, Minimum())


def test_what_is_missing_has_no_data_and_says_why() -> None:
    said = judge({}, Minimum(), missing={"b": "fails its laws"})
    assert said["b"].verdict == "no data" and said["b"].reason == "fails its laws"


@pytest.mark.parametrize("share, seconds", [(0.0, 0.0), (-1, 0.0), (float("nan"), 0.0), (0.03, -1.0), (0.03, inf)])
def test_a_minimum_that_says_nothing_is_refused(share: float, seconds: float) -> None:
    with pytest.raises(UsageError, match="smallest change that counts"):
        Minimum(share, seconds)


def test_exit_codes() -> None:
    change = Effect(0.1, 0.05, 0.15)
    slower, same, nothing = Verdict("slower", change), Verdict("same", change), Verdict("no data")
    moved, quiet = {"A/A": slower}, {"A/A": same}
    assert exit_code([same, nothing], quiet) == 0
    assert exit_code([same, slower], quiet) == 1
    assert exit_code([nothing], quiet) == 3 and exit_code([], quiet) == 3
    assert exit_code([slower], moved) == 4 and exit_code([same], moved) == 4
    assert exit_code([slower], moved, exact_regressions=True) == 1


def test_a_control_that_could_not_be_measured_proves_nothing() -> None:
    assert flagged({"a": Verdict("no data"), "b": Verdict("unstable"), "c": Verdict("faster")}) == ["a", "c"]
