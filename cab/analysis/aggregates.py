"""Scores over several tasks: CAB's compositional index as published, and one that depends on no population.

The compositional index (CAB, arXiv 2210.07661, section 4.1) is a z-score against frozen means and deviations, so that
it says how a mechanism compares with those that CAB had measured. `aggregated` needs `none` and softmax alone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean

from cab.analysis.leaderboard import Board, Cell, Line, one_a_question
from cab.analysis.slot_floors import differs_from_none, has_floor_and_ceiling, measures_attention
from cab.intervals import LEVEL

RESAMPLES = 2000  # of tasks and seeds, for the interval
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
    """A mechanism's mean over tasks: 0 is the floor `none`, 1 is softmax.

    `low` and `high` are None where neither another task nor another seed was measured.
    """

    mechanism: str
    value: float
    low: float | None
    high: float | None
    scores: Mapping[str, float]  # task -> mean over its boards
    missing: tuple[str, ...]  # tasks that others have
    ranks: tuple[int, int] | None = None  # over leaving any one task out; None where tasks are missing
    remarks: tuple[str, ...] = ()  # what limits the comparison: missing tasks, seeds, recipes, machines

    @property
    def tasks(self) -> int:
        """How many tasks it has a score of."""
        return len(self.scores)


@dataclass(frozen=True)
class _Score:
    """A mechanism's score on one board, from 0 (the floor) to 1 (softmax), with the scores of its seeds."""

    value: float
    of_seeds: tuple[float, ...]
    several_machines: bool


def aggregated(boards: Sequence[Board]) -> list[Aggregate]:
    """Return the mechanisms' means over the tasks of some boards with scores, the best first.

    Each score is placed between `none` (0) and softmax (1) of its board, perplexities by their logs; then averaged
    within a task and over the tasks. A question counts once, on however many machines. A board without both, or on
    which `none` is not worse than softmax's whole interval, does not count, and nor does one whose slot is known not to
    measure attention, or on which softmax alone is ranked. The interval is a percentile bootstrap of two levels: tasks
    are drawn, and for each of them the seeds of each of its boards. The floor and the ceiling are held. Nothing is
    filled in for a missing task, so that a mean over fewer tasks is not ranked.
    """
    by_mechanism: dict[str, dict[str, list[_Score]]] = {}
    board_counts: Counter[str] = Counter()
    for board in one_a_question(boards):
        task, scores = str(board.question["task"]), _normalised(board)
        board_counts[task] += bool(scores)
        for mechanism, score in scores.items():
            by_mechanism.setdefault(mechanism, {}).setdefault(task, []).append(score)
    means = {
        name: {task: fmean(score.value for score in scores) for task, scores in of.items()}
        for name, of in by_mechanism.items()
    }
    tasks = sorted({task for of in means.values() for task in of})
    complete = {name: of for name, of in means.items() if len(of) == len(tasks)}
    ranks = _ranks_without_one(complete, tasks)
    aggregates = []
    for name, of in means.items():
        low, high = _bootstrap([[score.of_seeds for score in scores] for scores in by_mechanism[name].values()])
        missing = tuple(task for task in tasks if task not in of)
        remarks = tuple(_remarks(by_mechanism[name], board_counts, missing))
        aggregates.append(Aggregate(name, fmean(of.values()), low, high, of, missing, ranks.get(name), remarks))
    return sorted(aggregates, key=lambda each: (len(each.missing), -each.value, each.mechanism))


def _remarks(
    scores: Mapping[str, Sequence[_Score]], board_counts: Mapping[str, int], missing: Sequence[str]
) -> Iterator[str]:
    """Yield what limits the comparison of a mechanism's mean with the others'."""
    single = sorted(task for task, of in scores.items() if any(len(score.of_seeds) == 1 for score in of))
    if single:
        yield "one seed" if len(single) == len(scores) and not missing else f"one seed: {', '.join(single)}"
    partial = [f"{task} in {len(of)} of {board_counts[task]}" for task, of in scores.items()]
    partial = [text for text, (task, of) in zip(partial, scores.items(), strict=True) if len(of) < board_counts[task]]
    if partial:
        yield f"not every size and recipe: {', '.join(sorted(partial))}"
    if any(score.several_machines for of in scores.values() for score in of):
        yield "scores of several machines"
    if missing:
        yield f"missing: {', '.join(missing)}"


def counted(boards: Sequence[Board]) -> list[Board]:
    """Return the boards that `aggregated` counts, each question once."""
    return [board for board in one_a_question(boards) if _normalised(board)]


def mean_scores(boards: Sequence[Board]) -> dict[str, Cell]:
    """Return mechanism -> its aggregate as a cell, for mechanisms that have every task."""
    return {
        each.mechanism: Cell("ok", each.value, each.low, each.high, interval_unknown=each.low is None)
        for each in aggregated(boards)
        if not each.missing
    }


def _normalised(board: Board) -> dict[str, _Score]:
    """Return mechanism -> its best line's headline, from 0 (the floor) to 1 (softmax); more is possible."""
    if not board.has_scores or measures_attention(board) is False:
        return {}
    if not has_floor_and_ceiling(board) or not differs_from_none(board):
        return {}
    floor = _best(board, [line for line in board.lines if line.mechanism == "none"])
    ceiling = _best(board, [line for line in board.lines if line.mechanism == "softmax"])
    if not floor or not ceiling or not ceiling[0] > floor[0]:  # of a perplexity that is not positive there is no log
        return {}
    lines: dict[str, list[Line]] = {}
    for line in board.lines:
        if line.kind == "ranked":
            lines.setdefault(line.mechanism, []).append(line)
    scores = {}
    for mechanism, of in lines.items():
        best = _best(board, of)
        if best:
            value, *of_seeds = ((each - floor[0]) / (ceiling[0] - floor[0]) for each in best)
            scores[mechanism] = _Score(value, tuple(of_seeds), board.score_machines > 1)
    return scores if set(scores) - {"softmax"} else {}  # softmax alone is held against nothing


def _best(board: Board, lines: Iterable[Line]) -> list[float]:
    """Return the best headline of some lines and that of each of its seeds; nothing where none has a value.

    They have a sign and scale such that more is better and steps are equal.
    """
    headline = board.headline
    cells = [cell for line in lines if (cell := line.cells.get(headline.name)) is not None and cell.value is not None]
    sign = 1 if headline.higher_is_better else -1
    best: list[float] = []
    for cell in cells:
        values = [cell.value or 0.0, *(cell.seed_values or [cell.value or 0.0])]
        if "perplexity" in headline.name:
            if min(values) <= 0:
                continue
            values = [log(value) for value in values]
        signed = [sign * value for value in values]
        if not best or signed[0] > best[0]:
            best = signed
    return best


def _bootstrap(tasks: Sequence[Sequence[Sequence[float]]]) -> tuple[float | None, float | None]:
    """Return the percentile interval of the mean over tasks; `tasks` are boards, which are the scores of seeds.

    Tasks are resampled, and within each drawn task the seeds of every board. None where nothing can be resampled.
    """
    import numpy as np

    if len(tasks) < 2 and all(len(seeds) < 2 for boards in tasks for seeds in boards):
        return None, None
    random, slots = np.random.default_rng(0), len(tasks)
    means = np.empty((RESAMPLES, slots, len(tasks)))  # of each task, drawn anew for each slot that it may fill
    for i, boards in enumerate(tasks):
        drawn = np.zeros((RESAMPLES, slots))
        for seeds in boards:
            values = np.asarray(seeds)
            drawn += values[random.integers(len(values), size=(RESAMPLES, slots, len(values)))].mean(-1)
        means[:, :, i] = drawn / len(boards)
    chosen = random.integers(len(tasks), size=(RESAMPLES, slots, 1))
    totals = np.take_along_axis(means, chosen, 2).mean((1, 2))
    low, high = np.quantile(totals, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _ranks_without_one(means: Mapping[str, Mapping[str, float]], tasks: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return mechanism -> its lowest and highest rank over all tasks and over all but any one."""
    subsets = [list(tasks), *([task for task in tasks if task != left_out] for left_out in tasks if len(tasks) > 1)]
    ranks: dict[str, list[int]] = {name: [] for name in means}
    for subset in subsets:
        scores = {name: fmean(of[task] for task in subset) for name, of in means.items()}
        for name, score in scores.items():
            ranks[name].append(1 + sum(other > score for other in scores.values()))
    return {name: (min(of), max(of)) for name, of in ranks.items() if of}
