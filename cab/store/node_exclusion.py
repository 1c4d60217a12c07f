"""Excludes nodes whose controls are unlike those of the other nodes of their run, and marks the rows of every bundle.

The rows of a bundle state the drift of its control. The rows of an excluded node keep no value, and are ranked nowhere.
"""

from collections import Counter
from collections.abc import Iterable
from math import exp, log, sqrt
from statistics import fmean, variance
from typing import TYPE_CHECKING

from cab.contracts.case import canonical
from cab.store.controls import Control

if TYPE_CHECKING:
    import pandas as pd

SHARE = 0.05  # of the runs on nodes that are alike, how many exclude a node
# A node's control that differs by less excludes it never: no single timing is narrower (the aim of the meter latency).
LEAST_DIFFERENCE = 0.05
LEAST_OTHERS = 2  # nodes that a node is held against; of two nodes that differ, nothing says which one is wrong
NO_VALUE = ("value", "ci_low", "ci_high")  # columns that a row of an excluded node leaves empty


def excluded(controls: Iterable[Control]) -> dict[str, str]:
    """Return bundle -> why its node is excluded, for the bundles whose node is.

    Compared are the nodes of one run whose environments are equal but for the host. The logs of a node's controls are
    averaged. A node is excluded where this average leaves the interval in which the averages of the others leave a next
    one (Student's t prediction interval), at a level of `SHARE` divided by the number of nodes that are compared in the
    run (Bonferroni). The interval is wider for a node with fewer controls than the others, see `_half_width`.
    """
    groups: dict[tuple[str, str], dict[str, list[Control]]] = {}
    for each in controls:
        alike = canonical({name: value for name, value in each.environment.items() if name != "host"})
        if _logs(each):
            groups.setdefault((each.run_id, alike), {}).setdefault(each.host, []).append(each)
    compared = {group: by_host for group, by_host in groups.items() if len(by_host) > LEAST_OTHERS}
    nodes = Counter[str]()  # of each run
    for (run_id, _), by_host in compared.items():
        nodes[run_id] += len(by_host)
    reasons = {}
    for (run_id, _), by_host in compared.items():
        logs = {host: [x for each in of_host for x in _logs(each)] for host, of_host in by_host.items()}
        for host in logs:
            others = [of_other for name, of_other in logs.items() if name != host]
            difference = fmean(logs[host]) - fmean(map(fmean, others))
            half_width = _half_width(logs[host], others, SHARE / nodes[run_id])
            if abs(difference) > half_width:
                reason = (
                    f"node {host} is excluded: its control took {exp(difference):.2f} times that of the other "
                    f"{len(others)} nodes, outside {exp(-half_width):.2f} to {exp(half_width):.2f}"
                )
                reasons.update({each.bundle: reason for each in by_host[host]})
    return reasons


def mark(rows: "pd.DataFrame", controls: Iterable[Control]) -> "pd.DataFrame":
    """Return rows with the column `control_drift`; those of excluded nodes become `skipped`, without their values.

    The column `bundles` of `rows` names the bundles of each row's processes, separated by spaces. Of several drifts a
    row has the largest.
    """
    by_bundle = {each.bundle: each for each in controls}
    reasons = excluded(by_bundle.values())

    def drift(bundles: str) -> float | None:
        drifts = [by_bundle[name].drift for name in bundles.split() if name in by_bundle]
        return max((each for each in drifts if each), key=lambda each: abs(log(each)), default=None)

    def reason(bundles: str) -> str | None:
        return next((reasons[name] for name in bundles.split() if name in reasons), None)

    distinct = list(rows["bundles"].unique())
    marked = rows.assign(control_drift=rows["bundles"].map({each: drift(each) for each in distinct}).astype("float64"))
    why = rows["bundles"].map({each: reason(each) for each in distinct}).astype("string")
    of_excluded = why.notna() & (marked["status"] == "ok")
    if of_excluded.any():
        marked.loc[of_excluded, "reason"] = why[of_excluded]
        marked.loc[of_excluded, "status"] = "skipped"
        marked.loc[of_excluded, "medians"] = "[]"
        marked.loc[of_excluded, list(NO_VALUE)] = float("nan")
    return marked


def _logs(control: Control) -> list[float]:
    return [log(seconds) for seconds in (control.before, control.after) if seconds is not None]


def _half_width(of_node: list[float], others: list[list[float]], level: float) -> float:
    """Return half the width of the interval, on the log scale, in which the others leave the average of one more node.

    The variance of the others' averages is that between nodes, and what is left of that within nodes in an average. Of
    that, a node with fewer values than the others has more: so much is added. For a node with more values nothing is
    taken away. The two values of a bundle count as one, for they may move together.
    """
    from scipy.special import stdtrit

    averages = [fmean(values) for values in others]
    everything = [of_node, *others]
    surplus = sum(map(len, everything)) - len(everything)
    squares = sum((value - fmean(values)) ** 2 for values in everything for value in values)
    within = 2 * squares / surplus if surplus else 0.0
    fewer = max(1 / len(of_node) - fmean(1 / len(values) for values in others), 0.0)
    quantile = float(stdtrit(len(others) - 1, 1 - level / 2))
    half_width = quantile * sqrt(variance(averages) * (1 + 1 / len(others)) + within * fewer)
    return max(half_width, log(1 + LEAST_DIFFERENCE))
