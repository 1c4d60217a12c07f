"""What a meter is: it turns a workload into samples in a child process, and samples into a value in the supervisor.

This file imports no torch; a meter imports what it measures with inside `measure`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Reading:
    """A metric's value with its 95 % interval and what it rests on."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    count: int = 1  # samples
    processes: int = 1
    converged: bool | None = None  # None where there is nothing to converge
    stop_reason: str = ""


class Meter:
    """One way to measure. The card says what it gives; `measure` runs in the child, `reduce` in the supervisor."""

    metrics: ClassVar[dict[str, tuple[str, bool | None]]] = {}  # name -> (unit, higher is better; None = neither)
    method: ClassVar[str] = ""  # one sentence, printed by `cab list meters` and beside the numbers
    version: ClassVar[int] = 1  # of the method; another version is another number
    environment: ClassVar[bool] = False  # whether the host matters
    processes: ClassVar[int] = 1  # how many fresh processes one value takes
    more_processes: ClassVar[int] = 0  # how many more it takes where a value has not `converged` with these
    pinned_allocator: ClassVar[bool] = False  # whether the child pins glibc's allocator first
    searches: ClassVar[bool] = False  # whether it chooses the cases that are measured, by `search`
    trains: ClassVar[bool] = False  # whether cases of pass=train are trained first, and it measures the trained model
    needs_method: ClassVar[dict[str, str]] = {}  # metrics that are there where the mechanism defines a method
    needs_task_method: ClassVar[dict[str, str]] = {}  # metrics that are there where the task defines a method
    asks: ClassVar[dict[str, Any]] = {}  # root keys that are part of this meter's question -> their usual values

    def unavailable(self, device: str) -> str | None:
        """Say why this meter cannot measure on `device` here, or None."""
        return None

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Return the metrics that this meter gives for `case`, a `cab.contracts.case.Case`; {} for none. No torch."""
        return self.metrics

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Measure `workload` (a `cab.worker.workload.Workload`) in the child.

        A meter that `trains` gets a `cab.worker.trained_model.TrainedModel` in its place where the case is trained.

        Returns metric -> {"samples": [numbers], and what else says how they came about}, JSON-able; or, for a metric
        that cannot be had here while others can, {"status": one of `cab.contracts.case.STATUSES`, "reason": why}.
        """
        raise NotImplementedError

    def search(self, case: Any, probe: Callable[[Any, bool], tuple[str, str, Any]]) -> dict[str, dict[str, Any]]:
        """Find by probing what `measure` would return; runs in the supervisor, for a meter that `searches`.

        `probe(case, pinned)` measures a case in a child of its own, under the item's limits, and returns the status,
        the reason, and what `measure` returned.
        """
        raise NotImplementedError

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Turn what `measure` returned for the metric in each process into its value, needing nothing else.

        Processes without samples (a status instead) are left out before this is called.
        """
        samples = [float(s) for process in processes for s in process["samples"]]
        return Reading(samples[-1], count=len(samples), processes=len(processes))
