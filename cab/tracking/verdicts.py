"""From log ratios of process pairs to verdicts, and from verdicts to an exit code. Pure: nothing is measured here.

Six pairs screen each case, loosely and uncorrected: with six the smallest p is 1/64, which no correction could pass.
What the screen finds gets eighteen pairs in all, and is judged by an exact test that is corrected for all cases of the
run. A case that the screen did not find counts in that correction with p = 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from cab.errors import UsageError
from cab.tracking.signed_rank import Effect, adjusted, effect, p_value

SCREEN_PAIRS, CONFIRM_PAIRS = 6, 18
SCREEN_P, SCREEN_EFFECT = 0.11, 0.01  # one-sided; 7/64 is the largest p up to .11 of six pairs
FALSE_DISCOVERIES = 0.01  # expected share of false ones among all confirmed changes
VERDICTS = ("slower", "faster", "same", "unstable", "no data")
FINE, REGRESSION, USAGE, NOTHING, UNPROVEN = range(5)  # exit codes


@dataclass(frozen=True)
class Minimum:
    """The smallest change that counts: a share of the base's time, and seconds."""

    share: float = 0.03
    seconds: float = 5e-6

    def __post_init__(self) -> None:
        if not (isfinite(self.share) and 0 < self.share < 10) or not (isfinite(self.seconds) and self.seconds >= 0):
            raise UsageError(
                f"the smallest change that counts is {self.share:g} and {self.seconds:g} s: give a share above 0, as in"
                " 0.03, and seconds of at least 0"
            )

    def passed_by(self, change: float, base_seconds: float) -> bool:
        """Whether a change of this share of the base's seconds counts."""
        return abs(change) > self.share and abs(change) * base_seconds > self.seconds

    def encloses(self, change: Effect) -> bool:
        """Whether the whole interval of a change lies below what counts, in either direction."""
        return -self.share < change.low and change.high < self.share


@dataclass(frozen=True)
class Samples:
    """What was measured of a case: a log ratio (head over base) for each process pair, and the base's seconds."""

    log_ratios: Sequence[float]
    base_seconds: float = float("inf")  # of one call, the median of the pairs


@dataclass(frozen=True)
class Verdict:
    """What is said of a case."""

    verdict: str  # one of VERDICTS
    effect: Effect | None = None
    p: float = 1.0  # after the correction
    pairs: int = 0
    reason: str = ""  # why there are no data


def screened(log_ratios: Sequence[float]) -> bool:
    """Whether the first pairs of a case ask for more."""
    first = list(log_ratios[:SCREEN_PAIRS])
    if len(first) < SCREEN_PAIRS:
        return False
    change = effect(first).estimate
    direction = "greater" if change > 0 else "less"
    return abs(change) > SCREEN_EFFECT and p_value(first, direction) <= SCREEN_P


def wanted_pairs(log_ratios: Sequence[float], settle: bool = False) -> int:
    """Return how many pairs a case needs, as far as is known; `settle` asks for all of them in any case."""
    return CONFIRM_PAIRS if settle or screened(log_ratios) else SCREEN_PAIRS


def judge(
    cases: Mapping[str, Samples], minimum: Minimum, settle: bool = False, missing: Mapping[str, str] | None = None
) -> dict[str, Verdict]:
    """Return a verdict for each case, and `no data` with its reason for each that is missing.

    `ValueError` where a case has fewer pairs than it needs: its verdict would be that of another procedure.
    """
    ps = {name: _confirmation_p(name, each.log_ratios, settle) for name, each in cases.items()}
    corrected = dict(zip(ps, adjusted(list(ps.values())), strict=True))
    verdicts = {name: _of_case(each, minimum, corrected[name]) for name, each in cases.items()}
    return verdicts | {name: Verdict("no data", reason=reason) for name, reason in (missing or {}).items()}


def _confirmation_p(name: str, log_ratios: Sequence[float], settle: bool) -> float:
    wanted = wanted_pairs(log_ratios, settle)
    if len(log_ratios) < wanted:
        raise ValueError(f"{name} has {len(log_ratios)} pairs and needs {wanted}")
    return p_value(log_ratios[:CONFIRM_PAIRS]) if wanted == CONFIRM_PAIRS else 1.0


def _of_case(samples: Samples, minimum: Minimum, p: float) -> Verdict:
    change, pairs = effect(samples.log_ratios), len(samples.log_ratios)
    if p <= FALSE_DISCOVERIES and minimum.passed_by(change.estimate, samples.base_seconds):
        return Verdict("slower" if change.estimate > 0 else "faster", change, p, pairs)
    return Verdict("same" if minimum.encloses(change) else "unstable", change, p, pairs)


def flagged(controls: Mapping[str, Verdict]) -> list[str]:
    """Name the controls in which the same code seems to differ, or which could not be measured."""
    return [name for name, each in controls.items() if each.verdict not in ("same", "unstable")]


def exit_code(verdicts: Iterable[Verdict], controls: Mapping[str, Verdict], exact_regressions: bool = False) -> int:
    """Return 0 fine, 1 confirmed regression, 3 nothing measured, 4 unproven (2 is for a wrong request).

    A count that grew stands whatever the controls say, because no clock is in it.
    """
    all_verdicts = [each.verdict for each in verdicts]
    if exact_regressions:
        return REGRESSION
    if all(each == "no data" for each in all_verdicts):
        return NOTHING
    if flagged(controls):
        return UNPROVEN
    return REGRESSION if "slower" in all_verdicts else FINE
