"""A run on a cluster: cut, submit, watch, submit again what was lost. The engines that are no `local` share this.

What is finished is taken out before anything is submitted. A key holds for one machine and the node is not known yet,
so a measurement counts as finished on whatever machine of this store it was measured.
"""

import json
import os
import shlex
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cab.contracts.messages import LawsAnswer
from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.planning.plan import ClusterSettings
from cab.runner import verdict_cache
from cab.runner.bundles import Bundle, Done, cut, read_bundle, read_done, write_bundle
from cab.runner.correctness_gate import Laws, under_laws
from cab.runner.entries import is_finished
from cab.runner.listener import Listener
from cab.runner.supervisor import Options, counts, new_run_id
from cab.store import controls, node_exclusion
from cab.store.entry import Entry
from cab.store.store import Store

POLL = 2.0  # seconds between two looks at the jobs
GRACE = 10.0  # seconds for which a job may be gone before the last file of its node is seen

Question = tuple[str, str, int, str, str]  # what a measurement asks, without the machine


class Cluster(Protocol):
    """A scheduler, through its public interface."""

    def submit(self, folder: Path, bundles: Sequence[Bundle]) -> Mapping[int, str]:
        """Submit bundles of one kind; return number -> name of its job. `UsageError` where the scheduler refuses."""

    def living(self, jobs: Iterable[str]) -> Mapping[str, str] | None:
        """Return job -> what it is and where (`pending`, `running on n1`) of those that have not ended.

        None where the scheduler does not answer.
        """

    def cancel(self, jobs: Iterable[str]) -> None:
        """End jobs."""

    def without(self, nodes: Sequence[str]) -> str:
        """Return what is to be said after `the same command`, for it to use other nodes than these."""

    @property
    def leaves_jobs(self) -> bool:
        """Whether Ctrl-C leaves the jobs to themselves."""


@dataclass
class _Submitted:
    bundle: Bundle
    folder: Path
    job: str
    read: int = 0  # bytes of its progress that have been read
    gone_since: float | None = None


class ClusterRun:
    """One run on a cluster, from the submitting machine."""

    def __init__(
        self, cluster: Cluster, store: Store, options: Options, listener: Listener, settings: ClusterSettings
    ) -> None:
        self.cluster, self.store, self.options, self.listener, self.settings = (
            cluster, store, options, listener, settings,
        )  # fmt: skip
        self.run_id = new_run_id()
        self._run_ids = {self.run_id}  # with those of the jobs that are attached
        self._left: set[Question] = set()  # what the store lacked at the start
        self.folder = (store.folder / "clusters" / self.run_id).absolute()
        self._submitted = 0  # bundles so far
        self._errors: list[str] = []
        self._refusal = ""  # what the scheduler said last of a bundle that is to be submitted again
        self._verdicts: dict[str, LawsAnswer] = {}

    def carry_out(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        """Have the cluster measure what the store lacks; return the measurements as the store has them.

        `UsageError` where nodes could not import or construct what was asked.
        """
        attached = self._attach()
        self._run_ids |= {each.bundle.run_id for each in attached}
        in_flight = {_question(each) for submitted in attached for each in submitted.bundle.measurements}
        there = stored(self.store, measurements, self.options, self._run_ids)
        left = [each for each, (_, finished) in zip(measurements, there, strict=True) if not finished]
        self.listener.start(measurements, left, sum(each.processes for each in left))
        self._left = {_question(each) for each in left}
        fresh = [each for each in left if _question(each) not in in_flight]
        if fresh:
            self.folder.mkdir(parents=True)
            self._check_laws(fresh)
        self._watch(
            [*attached, *self._submit([self._bundle(piece) for piece in cut(fresh, self.settings.bundle_minutes)])]
        )
        self._name_excluded_nodes(self._run_ids)
        if self._errors:
            raise UsageError("; ".join(dict.fromkeys(self._errors)))
        if left or attached:
            there = stored(self.store, measurements, self.options, self._run_ids)
        return [measurement for measurement, _ in there]

    def _name_excluded_nodes(self, run_ids: Collection[str]) -> None:
        """Say which nodes of some runs their controls exclude, and how their cases are measured on other nodes."""
        of_runs = {each.bundle: each for each in controls.load(self.store.folder) if each.run_id in run_ids}
        reasons = node_exclusion.excluded(of_runs.values())
        for reason in dict.fromkeys(reasons.values()):
            self.listener.note(f"{reason}; its timings are `skipped` in every table")
        cases = {
            entry.case_id
            for _, entry in (self.store.entries() if reasons else ())
            if any(process.details.get("bundle") in reasons for process in entry.processes)
        }
        if cases:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / "excluded.txt"
            path.write_text("\n".join(sorted(cases)) + "\n")
            nodes = sorted({of_runs[bundle].host for bundle in reasons})
            self.listener.note(
                f"to measure the cases of excluded nodes ({len(cases)}) on others: cab results remove --results "
                f"{shlex.quote(str(self.store.folder))} status=skipped $(cat {shlex.quote(str(path))}), and the same "
                f"command {self.cluster.without(nodes)}"
            )

    def pending(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        """Return the measurements that no machine has finished."""
        return pending(self.store, measurements, self.options, self._run_ids)

    def _check_laws(self, measurements: Sequence[Measurement]) -> None:
        """Have one job for each kind of device run the laws that are not known to hold; keep the verdicts."""
        self._watch(self._submit([self._bundle(each, laws_only=True) for each in unknown_laws(measurements)]))
        for key in _verdict_keys(each for each in measurements if not each.refusal):
            if (verdict := verdict_cache.load(key)) is not None:
                self._verdicts[key] = verdict

    def _bundle(self, measurements: Sequence[Measurement], laws_only: bool = False, attempt: int = 0) -> Bundle:
        self._submitted += 1
        keys = set() if laws_only else _verdict_keys(each for each in measurements if not each.refusal)
        return Bundle(
            number=self._submitted,
            run_id=self.run_id,
            measurements=measurements,
            results=str(self.store.folder.absolute()),
            working_folder=os.getcwd(),
            options=self.options,
            laws_only=laws_only,
            verdicts={key: verdict for key, verdict in self._verdicts.items() if key in keys},
            attempt=attempt,
        )

    def _submit(self, bundles: Sequence[Bundle]) -> list[_Submitted]:
        submitted: list[_Submitted] = []
        try:
            for of_kind in by_kind(bundles):
                for each in of_kind:
                    write_bundle(self.folder, each)
                jobs = self.cluster.submit(self.folder, of_kind)
                for each in of_kind:
                    submitted.append(_Submitted(each, self.folder, jobs[each.number]))
                    (self.folder / f"{each.number}.job").write_text(jobs[each.number])
        except BaseException:  # one kind of bundles is refused: the others' jobs must not go on unwatched
            if submitted:
                self.cluster.cancel([each.job for each in submitted])
            raise
        return submitted

    def _attach(self) -> list[_Submitted]:
        """Return what earlier commands have submitted for this store and what has not ended."""
        submitted = []
        for path in sorted((self.store.folder / "clusters").glob("*/*.job")):
            number = int(path.stem)
            if read_done(path.parent, number) is None:
                try:
                    submitted.append(
                        _Submitted(read_bundle(path.parent, number), path.parent.absolute(), path.read_text())
                    )
                except ValueError as error:
                    self.listener.note(str(error))
        living = self.cluster.living([each.job for each in submitted])
        if living is None:
            raise UsageError("the cluster does not answer: jobs of an earlier run may still be there")
        running = [each for each in submitted if each.job in living and not each.bundle.laws_only]
        if running:
            self.listener.note(f"attached to {len(running)} jobs of an earlier run")
        return running

    def _watch(self, submitted: list[_Submitted]) -> None:
        """Wait until every job has ended; what a lost one left is submitted again."""
        live, silent = list(submitted), False
        again: list[Bundle] = []  # what lost jobs left
        try:
            while live or again:
                states = self.cluster.living([each.job for each in live])
                if states is None and not silent:
                    self.listener.note("the cluster does not answer; waiting for it")
                silent = states is None
                for each in list(live):
                    done = read_done(each.folder, each.bundle.number)  # before its progress, which is then whole
                    self._report(each)
                    if done is not None:
                        live.remove(each)
                        self._end(each, done)
                    elif states is not None and self._is_lost(each, states):
                        live.remove(each)
                        again += self._again(each)
                self._submit_again(again, live)
                if live or again:
                    time.sleep(POLL)
        except BaseException:
            if self.cluster.leaves_jobs:
                self.listener.note(f"{len(live)} jobs are left running; the same command attaches to them")
            elif live:
                self.cluster.cancel([each.job for each in live])
            raise

    def _is_lost(self, submitted: _Submitted, states: Mapping[str, str]) -> bool:
        if submitted.job in states:
            submitted.gone_since = None
            self.listener.doing(states[submitted.job], submitted.bundle.number)
            return False
        submitted.gone_since = submitted.gone_since or time.monotonic()
        return time.monotonic() - submitted.gone_since > GRACE

    def _end(self, submitted: _Submitted, done: Done) -> None:
        self.listener.doing("", submitted.bundle.number)
        if done.error:
            self._errors.append(f"on {done.host}: {done.error}")
        for key, verdict in done.verdicts.items():
            verdict_cache.keep(key, verdict)

    def _again(self, lost: _Submitted) -> list[Bundle]:
        """Return what a lost job left as a bundle to be submitted, unless that has been tried often enough."""
        bundle = lost.bundle
        self.listener.doing("", bundle.number)
        left = list(bundle.measurements) if bundle.laws_only else self.pending(bundle.measurements)
        if not left:  # it was lost between its last result and its last file
            return []
        what = f"job {lost.job} was lost with {len(left)} of {len(bundle.measurements)} measurements left"
        if bundle.attempt >= self.settings.retries:
            self.listener.note(f"{what}; given up after {bundle.attempt + 1} attempts (its output: {lost.folder})")
            return []
        self.listener.note(f"{what}; they are submitted again")
        return [self._bundle(left, bundle.laws_only, bundle.attempt + 1)]

    def _submit_again(self, bundles: list[Bundle], live: list[_Submitted]) -> None:
        """Move bundles of lost jobs to the living; those that the scheduler refuses now stay for the next time.

        It may be away for a moment, and the other jobs go on meanwhile.
        """
        while bundles:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                live += self._submit(bundles[:1])
            except UsageError as error:
                if str(error) != self._refusal:
                    self.listener.note(f"{error}; it is tried again")
                self._refusal = str(error)
                break
            self._refusal = ""
            del bundles[0]

    def _report(self, submitted: _Submitted) -> None:
        """Pass on what a job has written of its progress since the last look.

        A job that was attached may have done before what the store had at the start, or what this command did not ask.
        """
        path = submitted.folder / f"{submitted.bundle.number}.progress"
        try:
            with open(path, "rb") as file:
                file.seek(submitted.read)
                text = file.read()
        except OSError:
            return
        lines = text.split(b"\n")
        submitted.read += len(text) - len(lines[-1])  # the last line may not be whole yet
        for line in lines[:-1]:
            try:
                event = json.loads(line)
            except ValueError:  # of a disk that was full for a while: the store knows what was done
                continue
            if not isinstance(event, dict):
                continue
            if "done" in event or "step" in event:
                measurement = submitted.bundle.measurements[event["done" if "done" in event else "step"]]
                if _question(measurement) not in self._left:
                    continue
                if "done" in event:
                    self.listener.done(measurement, event["status"], event["reason"])
                else:
                    self.listener.step(measurement, event["children"], event["more"])
            elif "note" in event:
                self.listener.note(event["note"])
            elif "doing" in event:
                self.listener.doing(event["doing"], submitted.bundle.number)


def unknown_laws(measurements: Iterable[Measurement]) -> list[list[Measurement]]:
    """Return measurements whose laws are not known to hold, a list for each kind of device: one job takes one."""
    by_device: dict[str, list[Measurement]] = {}
    for each in Laws().unknown(each for each in measurements if not each.refusal):
        by_device.setdefault(each.case.device.partition(":")[0], []).append(each)
    return list(by_device.values())


def pending(
    store: Store, measurements: Sequence[Measurement], options: Options, run_ids: Collection[str] = frozenset()
) -> list[Measurement]:
    """Return the measurements that no machine has finished."""
    there = stored(store, measurements, options, run_ids)
    return [asked for asked, (_, finished) in zip(measurements, there, strict=True) if not finished]


def stored(
    store: Store, measurements: Sequence[Measurement], options: Options, run_ids: Collection[str]
) -> list[tuple[Measurement, bool]]:
    """Return each measurement with the key of the machine that measured it, and whether it is finished there.

    Where several machines did, a finished entry goes before others, and then the newest. Entries count as in the runs
    `run_ids`.
    """
    files = _files_by_case(store)
    keys: dict[Any, str] = {}
    pairs: list[tuple[Measurement, bool]] = []
    for asked in measurements:
        best: tuple[bool, str, Entry, str] | None = None
        for file in files.get(asked.case.id, ()):
            entry = store.read(file)
            if entry is None or entry.meter != asked.meter or not counts(entry, asked, options, run_ids):
                continue
            unavailable = _unavailable_there(asked, entry, keys)
            if unavailable is not None:
                rank = (is_finished(entry, asked), entry.time)
                if best is None or rank > best[:2]:
                    best = (*rank, entry, unavailable)
        if best is None:
            pairs.append((asked, False))
        else:
            finished, _, entry, unavailable = best
            pairs.append((asked if entry.key == asked.key else asked.on(entry.environment, unavailable), finished))
    return pairs


def _verdict_keys(measurements: Iterable[Measurement]) -> set[str]:
    return set(verdict_cache.keys(each.case for measured in measurements for each in under_laws(measured)))


def _question(measurement: Measurement) -> Question:
    """Return what is asked, on whatever machine: a key has the machine in it, and that of who submits says nothing."""
    return measurement.case.id, measurement.meter, measurement.version, measurement.source, measurement.data


def _files_by_case(store: Store) -> dict[str, list[str]]:
    """Return case id -> the files of the store that hold its entries, as `Store.read` takes them."""
    files: dict[str, list[str]] = {}
    for folder in (store.folder / "cases").glob("??"):
        for name in os.listdir(folder):
            if name.endswith(".json"):
                files.setdefault(name.partition("-")[0], []).append(name.removesuffix(".json"))
    return files


def _unavailable_there(asked: Measurement, entry: Entry, keys: dict[Any, str]) -> str | None:
    """Return why the meter could not be used on the machine of an entry, "" where it could.

    None where the entry does not answer what is asked. `keys` remembers the keys that were worked out before: a store
    has many entries of few machines.
    """
    if entry.key == asked.key:
        return asked.unavailable
    for reason in ("", *(metric.reason for metric in entry.metrics.values())):
        identity = tuple(entry.environment.items()) if asked.hosted else None
        question = (asked.meter, asked.version, asked.source, asked.hosted, asked.data, identity, reason)
        try:
            key = keys.get(question)
        except TypeError:  # an environment with a value that is no scalar
            return reason if asked.on(entry.environment, reason).key == entry.key else None
        if key is None:
            key = keys[question] = asked.on(entry.environment, reason).key
        if key == entry.key:
            return reason
    return None


def by_kind(bundles: Iterable[Bundle]) -> list[list[Bundle]]:
    """Group bundles that ask a scheduler for the same."""
    kinds: dict[tuple[str, bool], list[Bundle]] = {}
    for each in bundles:
        kinds.setdefault((each.device_kind, each.is_timed), []).append(each)
    return list(kinds.values())
