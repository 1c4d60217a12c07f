"""The supervisor: runs a plan's measurements through the fork server and stores what comes back.

It never raises for a case. The laws of a case run before it is measured, once, in a child of their own. The processes
of each meter are then spread over a block of measurements in rounds, so that a drift of the machine hits all alike.
Samples are stored after every child, so a kill costs one child. With several workers, what is no timing (trainings,
counts) runs side by side first; timings then run alone.
"""

import copy
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from cab import environment
from cab.contracts.case import Case, digest
from cab.contracts.messages import CompareJob, Job, LawsJob, MeasureJob, PreflightJob, Samples, TrainAnswer, TrainJob
from cab.contracts.meter import Meter
from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.plugins import registry
from cab.runner import locks
from cab.runner.correctness_gate import CHANGED, Laws, has_changed
from cab.runner.entries import is_finished, left, new_entry, with_outcome, worst_status
from cab.runner.fork_client import ForkClient, ServerDied
from cab.runner.listener import Listener
from cab.runner.outcomes import Outcome, outcome_of
from cab.runner.worker_pool import Stopped, run_side_by_side
from cab.store import claims
from cab.store.entry import Entry
from cab.store.store import Store

BLOCK = 100  # measurements: the rounds of one timing are then spread over about ten minutes
PREFLIGHT_SECONDS = 600.0
CONTROL_SECONDS = 60.0
LAWS_SECONDS = 600.0  # at least: a short `timeout` is meant for the cases
ENDED_WELL = ("ok", "unsupported")  # statuses that a checkpoint is not kept for
SERVER_DEATHS = 3  # a case under which the server dies so often is an error


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes what is asked."""

    data: Path  # the folder of the tasks' data
    force: bool = False  # measure anew what the store holds
    retry: frozenset[str] = frozenset()  # statuses that are measured anew
    workers: int = 1  # children on the CPU side by side, where they are no timings


def new_run_id() -> str:
    """Return a name for a run, which no other has."""
    return f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"


def counts(
    entry: Entry | None, measurement: Measurement, options: Options, run_ids: Collection[str] = frozenset()
) -> bool:
    """Whether an entry of the store counts in a run, or is to be measured anew.

    `run_ids` are the run itself and those whose jobs do its work: what they have measured counts, whatever is asked.
    """
    if entry is None:
        return False
    if entry.run_id in run_ids:
        return True
    if options.force or entry.again or entry.statuses & options.retry:
        return False
    # under a limit that has been raised, what ran out of memory is tried again, and what was skipped for it
    limit = measurement.memory_limit
    raised = entry.memory_limit is not None and (limit is None or limit > entry.memory_limit)
    return not (raised and entry.statuses & {"oom", "skipped"})


class Supervisor:
    """Carries out measurements on this machine."""

    def __init__(
        self,
        store: Store,
        client: ForkClient,
        options: Options,
        listener: Listener,
        run_id: str | None = None,
        bundle: str = "",
    ) -> None:
        """`run_id` names the run, where several supervisors carry it out, and `bundle` the share of this one."""
        self.store, self.client, self.options, self.listener = store, client, options, listener
        self.run_id, self.bundle = run_id or new_run_id(), bundle
        self._renewed: set[str] = set()  # files that this run has written: their entries count, whatever was asked anew
        self._laws = Laws()
        self._refused: dict[str, str] = {}  # case id -> reason of what the preflight refused
        self._grades: dict[str, str] = {}  # case id -> the mechanism's grade with the case's hyper-parameters
        self._compared: set[str] = set()  # ids of cases that a child of this run has compared with their reference
        # lengths (n, m) that ran out of memory, by the hash of everything else that was asked
        self._oom_lengths: dict[str, set[tuple[int, int]]] = {}
        self._recording = threading.Lock()  # of the store's entries and of what is remembered above
        # of one of several workers: its number, what stops it, the cores and bytes that are its share
        self._worker: int | None = None
        self._stop = threading.Event()
        self._cores = environment.usable_cores()
        self._memory: int | None = None

    def pending(self, measurements: Iterable[Measurement]) -> list[Measurement]:
        """Return the measurements that the store does not hold yet, or that are asked for again."""
        pending = []
        for measurement in measurements:
            entry = self._entry(measurement)
            if entry is None or not is_finished(entry, measurement):
                pending.append(measurement)
            elif worst_status(entry)[0] == "oom":
                self._remember_oom(measurement)
        return pending

    def children(self, pending: Iterable[Measurement]) -> int:
        """Return how many processes pending measurements still take."""
        return sum(left(self._entry(each), each) for each in pending)

    def preflight(self, measurements: Sequence[Measurement], whole: bool = True) -> None:
        """Import and construct everything once, before anything is measured; `UsageError` says what is wrong.

        It is also raised where every case is refused and the measurements are the `whole` plan.
        """
        cases = list({each.case.id: each.case for each in measurements if not each.refusal}.values())
        if not cases:
            return
        self.listener.doing("preflight: importing plug-ins")
        outcome = self._run(PreflightJob(cases, str(self.options.data)), PREFLIGHT_SECONDS, None)
        if outcome.status != "ok":
            raise UsageError(outcome.reason)
        self._refused = dict(outcome.answer.refused)
        self._grades = dict(outcome.answer.grades)
        if whole and len(self._refused) == len(cases):
            reasons = dict.fromkeys(self._refused.values())
            raise UsageError(f"nothing of this can be measured: {'; '.join(list(reasons)[:5])}")

    def carry_out(self, measurements: Sequence[Measurement]) -> None:
        """Do every measurement; each ends in the store with a status for every metric."""
        side_by_side = self._queues(measurements)
        self.check_laws(measurements, least=1 if len(side_by_side) > 1 else 2)
        if len(side_by_side) > 1:
            self._carry_out_side_by_side(side_by_side)
        for block in _blocks(_by_child(measurements)):
            claimed_elsewhere = block
            last = max(each.most_processes for group in block for each in group) - 1
            for turn in range(last + 1):  # in the last round all are asked for, those of one process too
                claimed_elsewhere = self._round(block, turn)
            while claimed_elsewhere:
                self.listener.doing("waiting for another run on this store")
                time.sleep(0.2)
                claimed_elsewhere = self._round(claimed_elsewhere, last)

    def _queues(self, measurements: Sequence[Measurement]) -> list[list[list[Measurement]]]:
        """Return the groups that need not be alone on the machine: a queue for each worker that shall take of it.

        The groups of the CPU are one queue, which `workers` workers share; each GPU has its own, with one worker.
        """
        by_device: dict[str, list[list[Measurement]]] = {}
        for group in _by_child(measurements):
            if not _is_timed(group[0]) and not group[0].refusal:
                by_device.setdefault(group[0].case.device, []).append(group)
        queues = []
        for device, groups in by_device.items():
            queues += [groups] * (min(self.options.workers, len(groups)) if device == "cpu" else 1)
        return queues

    def _carry_out_side_by_side(self, queues: list[list[list[Measurement]]]) -> None:
        """Carry out groups of measurements that are no timings; what another run has claimed is left out."""
        cores = max(1, self._cores // len(queues))
        memory = int(0.9 * environment.available_memory()) // len(queues)

        def work(group: list[Measurement], worker: int, client: ForkClient, stop: threading.Event) -> None:
            supervisor = copy.copy(self)  # what is remembered of the run is shared
            supervisor.client, supervisor._worker, supervisor._stop = client, worker, stop
            supervisor._cores, supervisor._memory = cores, memory
            supervisor._round([group], max(each.most_processes for each in group) - 1)
            self.listener.doing("", worker)

        run_side_by_side(queues, work, self.client)

    def _round(self, groups: Iterable[list[Measurement]], turn: int) -> list[list[Measurement]]:
        """Give each group one more process, up to `turn` + 1; return the groups that another run has claimed."""
        claimed_elsewhere = []
        for group in groups:
            name = group[0].training or group[0].file
            lock = self.store.folder / "locks" / f"{name}.lock"
            with claims.claim(lock, lambda: self._waiting("")) as held:
                if held is None:
                    claimed_elsewhere.append(group)
                    continue
                for _ in range(turn + 1):  # usually one; more where an earlier round found it claimed
                    missing = [each for each in group if not is_finished(self._entry(each), each, turn + 1)]
                    if not missing:
                        break
                    if not self._run_child(missing, held):
                        claimed_elsewhere.append(group)
                        break
                if group[0].trains and held():
                    self._remove_checkpoint(group)
        return claimed_elsewhere

    def _remove_checkpoint(self, group: Sequence[Measurement]) -> None:
        """Delete a training's checkpoint once all that was asked of it has ended well: `--retry` goes on from it."""
        entries = [self._entry(each) for each in group]
        if (scores := self.store.read(group[0].training)) is not None:  # they may have been asked for earlier
            entries.append(scores)
        if all(entry and worst_status(entry)[0] in ENDED_WELL for entry in entries):
            shutil.rmtree(self.store.checkpoint(group[0].training).parent, ignore_errors=True)

    def _run_child(self, measurements: list[Measurement], held: Callable[[], bool]) -> bool:
        """Run one child for measurements of one case, and store what it returns.

        False where the claim was lost meanwhile: the answer of who has taken it over is kept, and this one dropped.
        """
        before = [self._processes(each) for each in measurements]
        outcomes = self._outcomes(measurements)
        if len(measurements) > 1 and any(outcomes[each.meter].died for each in measurements):
            # one of these meters took the others with it: now each has a child of its own
            return all([self._run_child([each], held) for each in measurements])
        if has_changed(measurements[0]):
            outcomes = {each.meter: CHANGED for each in measurements}
        details = {**environment.details(), "time": time.time()}
        if self.bundle:  # whose control tells how the node was
            details["bundle"] = self.bundle
        with self._recording:
            is_ours = held() and [self._processes(each) for each in measurements] == before
            if is_ours and all([self._record(each, outcomes[each.meter], details, held) for each in measurements]):
                return True
            self.listener.note(
                f"{measurements[0].case.title}: this run stood still for so long that another has taken the case "
                "over; its answer is kept"
            )
        return False

    def _processes(self, measurement: Measurement) -> int:
        """Return how many processes of a measurement the store holds."""
        entry = self.store.read(measurement.file)
        return len(entry.processes) if entry else 0

    def _record(
        self, measurement: Measurement, outcome: Outcome, details: dict[str, Any], held: Callable[[], bool]
    ) -> bool:
        """Write an outcome into the store and tell the listener; False where the claim was lost at the last moment."""
        graded = replace(measurement, grade=self._grades.get(measurement.case.id, measurement.grade))
        entry = self._entry(measurement) or new_entry(graded, self.run_id, environment.commit())
        entry = replace(entry, run_id=self.run_id)  # of what an earlier run has begun, too: it is this one's answer
        log = self._write_log(measurement, outcome)
        try:
            updated = with_outcome(entry, measurement, outcome, details)
            updated.to_text()
        except Exception as error:  # a meter's `reduce` or `search` gave what the store cannot hold
            outcome = Outcome("error", f"{type(error).__name__}: {error}")
            updated = with_outcome(entry, measurement, outcome, details)
        # outside: a full disk is no result, though an entry without samples would still fit
        if not self.store.write(updated, held):
            return False
        self._renewed.add(measurement.file)
        if isinstance(outcome.answer, TrainAnswer):
            for note in outcome.answer.notes:
                self.listener.note(f"{measurement.case.title}: {note}")
        if outcome.status == "oom":
            self._remember_oom(measurement)
        # after a failure none of the measurement's other processes will run; after a wide interval more than before
        over = left(entry, measurement) - left(updated, measurement)
        self.listener.step(measurement, max(1, over), max(0, 1 - over))
        if is_finished(updated, measurement):
            status, reason = worst_status(updated)
            self.listener.done(measurement, status, f"{reason} (its output: {log})" if log else reason)
        return True

    def _outcomes(self, measurements: list[Measurement]) -> dict[str, Outcome]:
        """Return meter -> what became of it, for measurements of one case that one child makes."""
        first = measurements[0]
        if first.refusal:  # of all, or of none: they are grouped so
            return {each.meter: Outcome(*each.refusal) for each in measurements if each.refusal}
        objections = {each.meter: why for each in measurements if (why := self._objection(each))}
        admitted = [each for each in measurements if each.meter not in objections]
        return objections | (self._measured(admitted) if admitted else {})

    def _measured(self, measurements: list[Measurement]) -> dict[str, Outcome]:
        """Return meter -> what became of it, for measurements to which nothing objects."""
        first = measurements[0]
        title = f"{first.case.title}: {', '.join(each.meter for each in measurements)}"
        self._doing(title)
        timed = _is_timed(first)
        with locks.device(first.case.device, timed, lambda by: self._waiting(f"waiting for the device{by}: {title}")):
            if first.trains:
                return self._train_and_measure(measurements, title)
            job = self._measure_job(first, [each.meter for each in measurements])
            if first.searches:
                return {first.meter: self._search(first, job, title)}
            outcome = self._measure(first, job, title)
        if outcome.status != "ok":
            return {each.meter: _retryable(outcome) for each in measurements}
        if outcome.answer.compared:
            self._compared.add(first.case.id)
        return {meter: Outcome.of(answer) for meter, answer in outcome.answer.meters.items()}

    def _objection(self, measurement: Measurement) -> Outcome | None:
        """Return why a case is not measured: the preflight, a shorter case that ran out of memory, or a law."""
        case = measurement.case
        if case.id in self._refused:
            return Outcome("unsupported", self._refused[case.id])
        with self._recording:
            oom_lengths = sorted(self._oom_lengths.get(_all_but_lengths(measurement), ()))
        for n, m in oom_lengths:
            # longer ones are not even tried: a machine near its memory limit is not to be trusted
            if case.n >= n and case.m >= m and (case.n, case.m) != (n, m):
                return Outcome("skipped", f"oom at n={n}" if n == m else f"oom at n={n} m={m}")
        return self._laws.objection(measurement, self._run_laws) or self._objection_to_baseline(measurement)

    def _objection_to_baseline(self, measurement: Measurement) -> Outcome | None:
        """Return why the mechanism that the case is held against may not be measured, where there is one."""
        baseline = measurement.case.baseline()
        if baseline is None:
            return None
        objection = self._laws.objection(replace(measurement, case=baseline), self._run_laws)
        return objection and replace(objection, reason=f"baseline {baseline.mechanism}: {objection.reason}")

    def _threads(self, case: Case) -> int:
        return case.settings.get("threads") or self._cores

    def _measure_job(self, measurement: Measurement, meters: list[str]) -> MeasureJob:
        case = measurement.case
        return MeasureJob(
            case,
            data=str(self.options.data),
            threads=self._threads(case),
            meters=meters,
            pinned=measurement.pinned,
            compared=case.id in self._compared,
            device_memory=_device_memory(measurement),
        )

    def _measure(self, measurement: Measurement, job: MeasureJob, title: str) -> Outcome:
        """Run a measuring child.

        Under a memory limit another child compares the case with its reference first: the reference's memory is not the
        mechanism's. What is only counted on meta tensors is not compared: there a million tokens cost no memory.
        """
        if measurement.memory_limit is not None and measurement.hosted and not job.compared:
            comparison = self._run(CompareJob(job.case, job.data, job.threads), measurement.timeout, None)
            if comparison.status != "ok":
                return comparison
            job = replace(job, compared=True)
        return self._run(job, measurement.timeout, _process_memory(measurement), title)

    def _train_and_measure(self, measurements: list[Measurement], title: str) -> dict[str, Outcome]:
        """Train, and let meters measure the trained model in another child, from the training's checkpoint.

        A meter that takes its child with it costs no training then, and what is killed goes on from the checkpoint.
        """
        first = measurements[0]
        trained = replace(self._train(first, title), died=False)  # what ends a training ends it for all
        meters = [each.meter for each in measurements if each.file != each.training]
        outcomes = {each.meter: trained for each in measurements}
        if trained.status == "ok" and meters:
            outcomes |= self._measure_trained(first, meters, title)
        return outcomes

    def _measure_trained(self, measurement: Measurement, meters: list[str], title: str) -> dict[str, Outcome]:
        """Return meter -> what it measured of the trained model; each has a child of its own where one took others."""
        job, checkpoint = self._measure_job(measurement, meters), self.store.checkpoint(measurement.training)
        job = replace(job, case=replace(job.case, settings={**job.case.settings, "checkpoint": str(checkpoint)}))
        outcome = self._run(job, measurement.timeout, _process_memory(measurement), f"{title}, trained")
        if outcome.died and len(meters) > 1:
            alone = [self._measure_trained(measurement, [meter], title) for meter in meters]
            return {meter: outcome for each in alone for meter, outcome in each.items()}
        if outcome.status == "ok":
            outcomes = {meter: Outcome.of(answer) for meter, answer in outcome.answer.meters.items()}
        else:
            outcomes = {meter: replace(outcome, died=False) for meter in meters}
        kept = checkpoint.exists()
        return {
            meter: each if each.status in ENDED_WELL else _retryable(each, kept) for meter, each in outcomes.items()
        }

    def _train(self, measurement: Measurement, title: str) -> Outcome:
        """Run a training child. It resumes from the checkpoint of an earlier child, of this run or another."""
        if has_changed(measurement):  # a checkpoint of edited sources would be continued as if it were of these
            return CHANGED
        case, checkpoint = measurement.case, self.store.checkpoint(measurement.training)
        if self.options.force:
            self._forget_earlier_runs(checkpoint.parent)
        if objection := self._objection_to_slot(measurement, title):
            return objection
        job = TrainJob(
            case,
            data=str(self.options.data),
            threads=self._threads(case),
            checkpoint=str(checkpoint),
            device_memory=_device_memory(measurement),
        )
        outcome = self._run(job, measurement.timeout, _process_memory(measurement), title)
        return outcome if outcome.status == "ok" else _retryable(outcome, checkpoint.exists())

    def _objection_to_slot(self, measurement: Measurement, title: str) -> Outcome | None:
        """Return why a mechanism is not trained: it is compared in the task's slot first, where the laws' is smaller.

        A child of its own compares it, once for all seeds of a run: they change the weights, and not the function.
        """
        case = replace(measurement.case, seed=0)
        if case.id in self._compared:
            return None
        job = CompareJob(case, str(self.options.data), self._threads(case))
        outcome = self._run(job, measurement.timeout, None, f"{title}: comparison")
        if outcome.status != "ok":
            return _retryable(outcome)
        self._compared.add(case.id)
        return None

    def _forget_earlier_runs(self, folder: Path) -> None:
        """Delete the checkpoint of an earlier run; that of another job or child of this one stays."""
        run = folder / "run"
        if not run.is_file() or run.read_text() != self.run_id:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            run.write_text(self.run_id)

    def _search(self, measurement: Measurement, job: MeasureJob, title: str) -> Outcome:
        """Let a meter probe cases of its choosing, each in a child of its own."""

        def probe(case: Case, pinned: bool) -> tuple[str, str, Any]:
            probe_job = replace(job, case=case, pinned=pinned, compared=False)
            outcome = self._measure(measurement, probe_job, f"{title}: n={case.n}")
            if outcome.status == "ok":
                outcome = Outcome.of(outcome.answer.meters[measurement.meter])
            return outcome.status, outcome.reason, outcome.answer.metrics if outcome.status == "ok" else {}

        meter = registry.load("meter", measurement.meter)()
        assert isinstance(meter, Meter)
        try:
            return Outcome("ok", answer=Samples(meter.search(measurement.case, probe)))
        except Exception as error:  # a plug-in's: it costs its own metrics only
            return Outcome("error", f"{type(error).__name__}: {error}", output=traceback.format_exc())

    def _remember_oom(self, measurement: Measurement) -> None:
        lengths = (measurement.case.n, measurement.case.m)
        self._oom_lengths.setdefault(_all_but_lengths(measurement), set()).add(lengths)

    def check_laws(self, measurements: Sequence[Measurement], least: int = 1) -> None:
        """Run the laws that are not known to hold side by side, on all cores: they are no timings.

        Fewer than `least` are run when they are needed.
        """
        unknown = self._laws.unknown(
            each for each in measurements if not each.refusal and each.case.id not in self._refused
        )
        if len(unknown) < least:
            return

        def work(measurement: Measurement, worker: int, client: ForkClient, stop: threading.Event) -> None:
            supervisor = copy.copy(self)
            supervisor.client, supervisor._worker, supervisor._stop = client, worker, stop
            with suppress(UsageError):  # a file that cannot be read any more: its own measurement says so
                self._laws.objection(measurement, partial(supervisor._run_laws, silent=True))

        run_side_by_side(
            [unknown] * min(environment.usable_cores(), len(unknown)),
            work,
            self.client,
            lambda done: self.listener.doing(f"laws {done}/{len(unknown)}"),
        )

    def latency(self, case: Case, processes: int) -> float | None:
        """Return the median seconds of a case over fresh processes, timed as the meter does; None where one fails.

        Nothing is stored.
        """
        job = MeasureJob(case, str(self.options.data), self._threads(case), ["latency"], pinned=True, compared=True)
        medians: list[float] = []
        for _ in range(processes):
            with locks.device(case.device, True, lambda by: self._waiting(f"waiting for the device{by}: control")):
                outcome = self._run(job, CONTROL_SECONDS, None, "control")
            answer = outcome.answer.meters["latency"] if outcome.status == "ok" else None
            if not isinstance(answer, Samples):
                return None
            medians.append(median(answer.metrics["latency"]["samples"]))
        return median(medians)

    def _run_laws(self, measurement: Measurement, silent: bool = False) -> Outcome:
        case = measurement.case
        if not silent:
            self._doing(f"{case.mechanism} {case.pattern}: laws")
        job = LawsJob(case.mechanism, case.pattern, case.params, case.backend, case.device)
        with locks.device(case.device, False, lambda by: self._waiting(f"waiting for the device{by}: laws")):
            return self._run(job, max(measurement.timeout, LAWS_SECONDS), None)

    def _run(self, job: Job, deadline: float, memory: int | None, title: str = "") -> Outcome:
        """Run a job in a child within `deadline` seconds and `memory` bytes (None: nine tenths of what is free).

        Progress is shown beside `title`. Whatever becomes of the child is an outcome.
        """
        limit = memory if memory is not None else self._memory or int(0.9 * environment.available_memory())

        def waiting(progress: str) -> None:
            self._waiting(f"{title}: {progress}" if title and progress else title)

        for _ in range(SERVER_DEATHS):
            try:
                return outcome_of(self.client.run(job, deadline, limit, waiting), deadline, limit)
            except ServerDied as error:
                printed = str(error)
                why = printed.strip()[-200:] or "killed"
                self.listener.note(f"the fork server died and is started again ({why})")
        return Outcome("error", f"the fork server died {SERVER_DEATHS} times under this case", output=printed)

    def _doing(self, what: str) -> None:
        self.listener.doing(what, self._worker)

    def _waiting(self, what: str) -> None:
        """Show what is waited for; raises `Stopped` in a worker whose run is being stopped."""
        if self._stop.is_set():
            raise Stopped
        if what:
            self._doing(what)

    def _entry(self, measurement: Measurement) -> Entry | None:
        """Return what the store holds of a measurement, or None where it is to be measured anew."""
        entry = self.store.read(measurement.file)
        known = measurement.file in self._renewed or counts(entry, measurement, self.options, {self.run_id})
        return entry if known else None

    def _write_log(self, measurement: Measurement, outcome: Outcome) -> Path | None:
        """Write what a failed child printed into a file; return the file, or None where it printed nothing."""
        if not outcome.output.strip() or outcome.status not in ("error", "oom", "timeout", "wrong"):
            return None
        path = self.store.folder / "logs" / f"{measurement.file}.log"
        path.parent.mkdir(exist_ok=True)
        path.write_text(outcome.output[-200_000:], errors="replace")
        return path


def _is_timed(measurement: Measurement) -> bool:
    """Whether a measurement must be alone on its device."""
    return measurement.hosted and not measurement.trains


def _device_memory(measurement: Measurement) -> int | None:
    """Return the memory limit of a case on a GPU, where it is the device's."""
    return measurement.memory_limit if measurement.case.device.startswith("cuda") else None


def _process_memory(measurement: Measurement) -> int | None:
    """Return the memory limit of a case on the CPU, where it is the process's."""
    return None if measurement.case.device.startswith("cuda") else measurement.memory_limit


def _retryable(outcome: Outcome, checkpoint: bool = False) -> Outcome:
    """Say in a failure's reason what `--retry` would do; `checkpoint` says whether a training left one."""
    if outcome.status not in ("timeout", "oom") and not checkpoint:
        return outcome
    retry = "goes on from its last checkpoint" if checkpoint else "asks again"
    status = "error" if outcome.status == "usage" else outcome.status  # as the store names it
    return replace(outcome, reason=f"{outcome.reason}; --retry {status} {retry}")


def _all_but_lengths(measurement: Measurement) -> str:
    """Hash everything that a measurement asks but the lengths of its case; of a raster the number of axes counts."""
    case = measurement.case
    axes = {name: len(case.settings[name]) for name in ("raster", "source_raster") if name in case.settings}
    question: dict[str, Any] = {**case.question(), "n": None, "m": None, "settings": {**case.settings, **axes}}
    return digest([question, measurement.meter, measurement.memory_limit])


def _by_child(measurements: Iterable[Measurement]) -> list[list[Measurement]]:
    """Group measurements that one child makes: those of a case whose results do not depend on the host.

    What is asked of one training is a group, too: its scores, and what meters measure of the trained model.
    """
    groups: dict[Any, list[Measurement]] = {}
    for each in measurements:
        alone = each.hosted or each.searches or each.processes > 1
        child = each.training or (each.case.id, each.meter if alone else "")
        groups.setdefault((child, bool(each.refusal)), []).append(each)
    return list(groups.values())


def _blocks(groups: Iterable[list[Measurement]]) -> Iterator[list[list[Measurement]]]:
    """Cut groups into blocks of `BLOCK` measurements, or a few more: a group stays whole, else it would train again."""
    block: list[list[Measurement]] = []
    for group in groups:
        block.append(group)
        if sum(map(len, block)) >= BLOCK:
            yield block
            block = []
    if block:
        yield block
