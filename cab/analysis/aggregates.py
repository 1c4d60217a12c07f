"""Scores over several tasks: CAB's compositional index as published, and one that depends on no population.

The compositional index (CAB, arXiv 2210.07661, section 4.1) is a z-score against frozen means and deviations, so that
it says how a mechanism compares with those that CAB had measured. `aggregated` needs `none` and softmax alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from random import Random
from statistics import fmean

from cab.analysis.leaderboard import Board, Cell, Line
from cab.analysis.slot_floors import measures_attention

RESAMPLES = 2000  # of the tasks, for the interval
LEVEL = 0.95
_Constant = tuple[str, float, float, bool]  # task and metric, mean, sample deviation, whether higher is better

# CAB's frozen constants, by pattern and by the group of metrics that it calls a task. CAB's script takes the columns
# of its README, in which ECL and Weather are swapped: what it calls ECL is Weather, and the reverse.
_TRANSFORMER_TTS_NS: tuple[_Constant, ...] = (
    ("cab_tts_transformer mcd", 4.06947, 0.09422, False),
    ("cab_tts_transformer msd", 2.19021, 0.03866, False),
)
CAB_CONSTANTS: dict[str, dict[str, tuple[_Constant, ...]]] = {
    "NS": {
        "TTS": (
            ("cab_tts_fastspeech2 mcd", 3.4245, 0.06832, False),
            ("cab_tts_fastspeech2 msd", 1.97429, 0.0361768, False),
            *_TRANSFORMER_TTS_NS,
        ),
        "Sum": (
            ("cab_sum rouge1", 0.3488667, 0.0139697, True),
            ("cab_sum rouge2", 0.0679333, 0.0141078, True),
            ("cab_sum rougeL", 0.3196889, 0.0131499, True),
        ),
        "SR": (
            ("cab_sr psnr", 23.208, 0.27499, True),
            ("cab_sr ssim", 0.6758, 0.01557, True),
        ),
        "MLM": (("mlm perplexity", 36.292, 62.30827, False),),
    },
    "CS": {
        "TTS": (
            ("cab_tts_transformer mcd", 4.08325, 0.04529, False),
            ("cab_tts_transformer msd", 2.20085, 0.01372, False),
        ),
        "Sum": (
            ("cab_sum rouge1", 0.329575, 0.0192754, True),
            ("cab_sum rouge2", 0.060925, 0.0041007, True),
            ("cab_sum rougeL", 0.302575, 0.0161951, True),
        ),
        "LM": (("lm perplexity", 22.26, 8.29944, False),),
    },
    "NC": {
        "PCC": (
            ("cab_pcc cd_l1", 7.7025, 0.64789, False),
            ("cab_pcc cd_l2", 0.24775, 0.03366, False),
            ("cab_pcc f_score", 0.7625, 0.03906, True),
        ),
        "LSTF": (
            ("forecasting_ett mse", 1.18933, 0.05615, False),
            ("forecasting_ett mae", 0.80625, 0.02193, False),
            ("forecasting_weather mse", 0.47575, 0.01057, False),
            ("forecasting_weather mae", 0.511, 0.00601, False),
            ("forecasting_ecl mse", 0.62025, 0.18948, False),
            ("forecasting_ecl mae", 0.58075, 0.10312, False),
        ),
    },
    "CC": {
        "TTS": (
            ("cab_tts_transformer mcd", 5.5037, 1.29239, False),
            ("cab_tts_transformer msd", 2.6278, 0.42726, False),
        ),
        "Sum": (
            ("cab_sum rouge1", 0.3135, 0.0377103, True),
            ("cab_sum rouge2", 0.0526, 0.0126028, True),
            ("cab_sum rougeL", 0.288, 0.0328638, True),
        ),
    },
}


def compositional_index(pattern: str, values: Mapping[str, float]) -> float | None:
    """Return CAB's compositional index in a pattern, or None where a metric is missing. Higher is better.

    `values` maps "task metric" to a value, with the names of results/published/cab.csv. The index is the mean over the
    tasks of the mean z-score of each task's metrics; its population is the mechanisms that CAB had measured.
    """
    tasks = []
    for metrics in CAB_CONSTANTS[pattern].values():
        if any(name not in values for name, *_ in metrics):
            return None
        scores = [(values[name] - mean) / deviation * (1 if up else -1) for name, mean, deviation, up in metrics]
        tasks.append(fmean(scores))
    return fmean(tasks)


@dataclass(frozen=True)
class Aggregate:
    """A mechanism's mean over tasks: 0 is the floor `none`, 1 is softmax. `low` and `high` are None for one task."""

    mechanism: str
    value: float
    low: float | None
    high: float | None
    tasks: int
    missing: tuple[str, ...]  # tasks that others have
    ranks: tuple[int, int] | None = None  # over leaving any one task out; None where tasks are missing


def aggregated(boards: Sequence[Board]) -> list[Aggregate]:
    """Return the mechanisms' means over the tasks of some boards with scores, the best first.

    Each score is placed between `none` (0) and softmax (1) of its board, perplexities by their logs; then averaged
    within a task and over the tasks. A board without both, or on which softmax is not better than `none`, does not
    count, and nor does one whose slot is known not to measure attention. The interval is the percentile bootstrap over
    tasks: it covers other tasks of this kind, not other seeds.
    Nothing is filled in for a missing task, so that a mean over fewer tasks is not ranked.
    """
    by_mechanism: dict[str, dict[str, list[float]]] = {}
    for board in boards:
        for mechanism, value in _normalised(board).items():
            by_mechanism.setdefault(mechanism, {}).setdefault(str(board.question["task"]), []).append(value)
    means = {name: {task: fmean(values) for task, values in of.items()} for name, of in by_mechanism.items()}
    tasks = sorted({task for of in means.values() for task in of})
    complete = {name: of for name, of in means.items() if len(of) == len(tasks)}
    ranks = _ranks_without_one(complete, tasks)
    aggregates = []
    for name, of in means.items():
        low, high = _bootstrap(list(of.values()))
        missing = tuple(task for task in tasks if task not in of)
        aggregates.append(Aggregate(name, fmean(of.values()), low, high, len(of), missing, ranks.get(name)))
    return sorted(aggregates, key=lambda each: (len(each.missing), -each.value, each.mechanism))


def mean_scores(boards: Sequence[Board]) -> dict[str, Cell]:
    """Return mechanism -> its aggregate as a cell, for mechanisms that have every task."""
    return {
        each.mechanism: Cell("ok", each.value, each.low, each.high, interval_unknown=each.low is None)
        for each in aggregated(boards)
        if not each.missing
    }


def _normalised(board: Board) -> dict[str, float]:
    """Return mechanism -> its best line's headline, from 0 (the floor) to 1 (softmax); more is possible."""
    if not board.has_scores or measures_attention(board) is False:
        return {}
    floor = _best(board, [line for line in board.lines if line.mechanism == "none"])
    ceiling = _best(board, [line for line in board.lines if line.mechanism == "softmax"])
    if floor is None or ceiling is None or not ceiling > floor:
        return {}
    lines: dict[str, list[Line]] = {}
    for line in board.lines:
        if line.kind == "ranked":
            lines.setdefault(line.mechanism, []).append(line)
    scores = {mechanism: _best(board, of) for mechanism, of in lines.items()}
    return {name: (score - floor) / (ceiling - floor) for name, score in scores.items() if score is not None}


def _best(board: Board, lines: Iterable[Line]) -> float | None:
    """Return the best headline of some lines with a sign and scale such that more is better and steps are equal."""
    headline = board.headline
    cells = [cell for line in lines if (cell := line.cells.get(headline.name)) is not None and cell.value is not None]
    values = [cell.value for cell in cells if cell.value is not None]
    if "perplexity" in headline.name:
        values = [log(value) for value in values if value > 0]
    if not values:
        return None
    return max(values) if headline.higher_is_better else -min(values)


def _bootstrap(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the percentile interval of the mean over resampled tasks; none for one task."""
    if len(values) < 2:
        return None, None
    random = Random(0)
    means = sorted(fmean(random.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = round((1 - LEVEL) / 2 * RESAMPLES)
    return means[tail], means[-tail - 1]


def _ranks_without_one(means: Mapping[str, Mapping[str, float]], tasks: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return mechanism -> its lowest and highest rank over all tasks and over all but any one."""
    subsets = [list(tasks), *([task for task in tasks if task != left_out] for left_out in tasks if len(tasks) > 1)]
    ranks: dict[str, list[int]] = {name: [] for name in means}
    for subset in subsets:
        scores = {name: fmean(of[task] for task in subset) for name, of in means.items()}
        for name, score in scores.items():
            ranks[name].append(1 + sum(other > score for other in scores.values()))
    return {name: (min(of), max(of)) for name, of in ranks.items() if of}
