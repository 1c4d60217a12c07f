"""`cab track calibrate`: what a comparison can find on this machine, from pairs of the same code."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, log
from pathlib import Path
from statistics import median

from cab.errors import UsageError
from cab.intervals import wilson
from cab.paths import write_whole
from cab.tracking.signed_rank import p_value
from cab.tracking.verdicts import CONFIRM_PAIRS, FALSE_DISCOVERIES, Minimum, Samples, judge, screened, wanted_pairs

POWER = 0.8  # share of tries in which the smallest effect is found
TRIES = 200
SHARES = tuple(round(0.01 * step, 2) for step in range(1, 101))  # effects that are tried


@dataclass(frozen=True)
class CaseCalibration:
    """What is known of one case: the spread of its log ratios, and the smallest slowdown that is found."""

    noise: float  # 1.48 times the median absolute deviation: the standard deviation, were they normal
    smallest: float | None  # share that is found in POWER of the tries; None where none of SHARES is
    pairs: int


@dataclass(frozen=True)
class FalseAlarms:
    """How often the procedure called the same code slower or faster, in disjoint runs of real pairs."""

    alarms: int
    runs: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of their share."""
        return wilson(self.alarms, self.runs)


def calibrate_case(log_ratios: Sequence[float], cases: int) -> CaseCalibration:
    """Say what is found of one case among `cases`, from pairs of the same code.

    The sides of such a pair may be exchanged, so the signs of the ratios are drawn; the slowdown is planted into them.
    """
    centre = median(log_ratios)
    noise = 1.4826 * median(abs(value - centre) for value in log_ratios)
    low, high = 0, len(SHARES)  # power grows with the effect
    while low < high:
        middle = (low + high) // 2
        if power(log_ratios, SHARES[middle], cases) >= POWER:
            high = middle
        else:
            low = middle + 1
    return CaseCalibration(noise, SHARES[low] if low < len(SHARES) else None, len(log_ratios))


def power(log_ratios: Sequence[float], share: float, cases: int, tries: int = TRIES) -> float:
    """Return in which share of the tries a planted slowdown of one case among unchanged others is significant."""
    draw, hits = random.Random(0), 0
    for _ in range(tries):
        values = [log(1 + share) + draw.choice((-1, 1)) * value for value in draw.choices(log_ratios, k=CONFIRM_PAIRS)]
        # with the p values of all others at 1, the correction multiplies by the number of cases
        hits += screened(values) and median(values) > 0 and p_value(values) * cases <= FALSE_DISCOVERIES
    return hits / tries


def false_alarms(cases: Mapping[str, Sequence[float]], minimum: Minimum) -> FalseAlarms:
    """Judge disjoint runs, each of CONFIRM_PAIRS pairs of every case, as a comparison would."""
    alarms = runs = 0
    for start in range(0, min(map(len, cases.values()), default=0) - CONFIRM_PAIRS + 1, CONFIRM_PAIRS):
        of_run = {name: list(values[start : start + CONFIRM_PAIRS]) for name, values in cases.items()}
        said = judge({name: Samples(values[: wanted_pairs(values)]) for name, values in of_run.items()}, minimum)
        alarms += sum(each.verdict in ("slower", "faster") for each in said.values())
        runs += len(said)
    return FalseAlarms(alarms, runs)


def keep(path: Path, cases: Mapping[str, CaseCalibration]) -> None:
    """Write what is known of an environment; cases of earlier calibrations stay."""
    known = {**load(path), **cases}
    write_whole(path, json.dumps({name: asdict(each) for name, each in known.items()}, indent=1))


def load(path: Path) -> dict[str, CaseCalibration]:
    """Read what is known of an environment; nothing where there is no file, `UsageError` where it is damaged."""
    try:
        return {name: CaseCalibration(**each) for name, each in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} cannot be read as a calibration ({error}); delete it, and run cab track calibrate again"
        ) from None


def refuse_thresholds_below(known: Mapping[str, CaseCalibration], names: Sequence[str], minimum: Minimum) -> None:
    """Raise `UsageError` where a case's noise hides changes of the size that shall count."""
    lines = []
    for name in names:
        if name not in known or (smallest := known[name].smallest) is not None and smallest <= minimum.share:
            continue
        if smallest is None:
            lines.append(f"{name}: not even a doubling is found")
        else:
            # the width of an interval falls with the root of the number of pairs
            pairs = ceil(CONFIRM_PAIRS * (smallest / minimum.share) ** 2)
            lines.append(f"{name}: {smallest:.0%} is found, some {pairs} pairs would find {minimum.share:.0%}")
    if lines:
        raise UsageError(
            f"--minimum {minimum.share:g} is below what is found here in {POWER:.0%} of tries (cab track calibrate): "
            f"{'; '.join(lines)}. Give a larger --minimum, leave these cases out, or use a quieter machine"
        )
