"""Controls: how fast a node ran one small fixed case before and after each bundle of timings, and what follows of it.

A bundle on a cluster writes `controls/<run>-<bundle>.json` into the store, and each process that it measures names the
bundle in its entry. The rows of a bundle then state the drift of its control. A node whose control is unlike that of
the other nodes of the run is excluded: its rows are marked, keep no value, and are ranked nowhere.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import exp, inf, log, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from cab.contracts.case import Case, canonical
from cab.paths import write_whole

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "controls"  # of a store
PROCESSES = 3  # fresh ones for each of the two times, of which the median counts
LENGTH = 256  # of the control case: some tenths of a millisecond on one core
SHARE = 0.05  # of the runs on nodes that are alike, how many exclude a node
# A node's control that differs by less excludes it never: no single timing is narrower (the aim of the meter latency).
LEAST_DIFFERENCE = 0.05
LEAST_OTHERS = 2  # nodes that a node is held against; of two nodes that differ, nothing says which one is wrong
NO_VALUE = ("value", "ci_low", "ci_high")  # columns that a row of an excluded node leaves empty


@dataclass(frozen=True)
class Control:
    """What the control case took on the node of one bundle."""

    run_id: str
    number: int  # of the bundle
    environment: Mapping[str, Any]  # the identity of the node, as a timing there has it
    before: float | None = None  # seconds, before the bundle; None where it could not be timed
    after: float | None = None  # None also where the bundle's job was lost

    @property
    def bundle(self) -> str:
        """Name the bundle, as the processes of its entries do."""
        return f"{self.run_id}-{self.number}"

    @property
    def host(self) -> str:
        """Name the node."""
        return str(self.environment.get("host"))

    @property
    def drift(self) -> float | None:
        """The seconds after the bundle as a multiple of those before it; None where one of them is missing."""
        return self.after / self.before if self.before and self.after else None


def case(device: str, threads: int | None) -> Case:
    """Return the control case: softmax attention on a short sequence, on the device and threads of a bundle."""
    return Case(
        mechanism="softmax",
        params={},
        pattern="NS",
        task="speed",
        task_params={},
        n=LENGTH,
        m=LENGTH,
        batch=1,
        heads=4,
        dim=64,
        dtype="float32",
        device=device,
        backend="eager",
        level="attend",
        pass_="forward",
        seed=0,
        scale="quick",
        settings={} if threads is None else {"threads": threads},
    )


def keep(store: Path, control: Control) -> None:
    """Write a control into a store, replacing what the same bundle wrote before."""
    write_whole(store / FOLDER / f"{control.bundle}.json", json.dumps(asdict(control)))


def load(store: Path) -> list[Control]:
    """Return the controls of a store; files that cannot be read are left out, as their bundles had none."""
    controls = []
    for path in sorted((store / FOLDER).glob("*.json")):
        try:
            control = Control(**json.loads(path.read_bytes()))
            if _is_sound(control) and control.bundle == path.stem:
                controls.append(control)
        except (OSError, TypeError, ValueError, RecursionError):
            continue
    return controls


def _is_sound(control: Control) -> bool:
    seconds = [each for each in (control.before, control.after) if each is not None]
    return (
        isinstance(control.run_id, str)
        and isinstance(control.environment, dict)
        and all(isinstance(each, float) and 0 < each < inf for each in seconds)
    )


def excluded(controls: Iterable[Control]) -> dict[str, str]:
    """Return bundle -> why its node is excluded, for the bundles whose node is.

    Compared are the nodes of one run whose environments are equal but for the host. The logs of a node's controls are
    averaged. A node is excluded where this average leaves the interval in which the averages of the others leave a next
    one (Student's t prediction interval), at a level of `SHARE` divided by the number of nodes (Bonferroni).
    """
    groups: dict[tuple[str, str], dict[str, list[Control]]] = {}
    for each in controls:
        alike = canonical({name: value for name, value in each.environment.items() if name != "host"})
        if _logs(each):
            groups.setdefault((each.run_id, alike), {}).setdefault(each.host, []).append(each)
    reasons = {}
    for by_host in groups.values():
        averages = {host: fmean([x for each in of_host for x in _logs(each)]) for host, of_host in by_host.items()}
        for host, average in averages.items():
            others = [value for name, value in averages.items() if name != host]
            if len(others) < LEAST_OTHERS:
                continue
            half_width = _half_width(others, len(averages))
            if abs(average - fmean(others)) > half_width:
                reason = (
                    f"node {host} is excluded: its control took {exp(average - fmean(others)):.2f} times that of the "
                    f"other {len(others)} nodes, outside {exp(-half_width):.2f} to {exp(half_width):.2f}"
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


def _half_width(others: list[float], nodes: int) -> float:
    """Return half the width of the interval, on the log scale, in which the others leave one more node."""
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(others) - 1, 1 - SHARE / nodes / 2))
    return max(quantile * stdev(others) * sqrt(1 + 1 / len(others)), log(1 + LEAST_DIFFERENCE))
