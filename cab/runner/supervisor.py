"""The supervisor: runs a plan's items through the fork server and keeps what comes back. It never raises for a case.

A case is correct before it is measured: the laws run first, once, in a child of their own. Then each meter's
processes are spread over the block in rounds, so that a drift of the machine hits all alike; each child's samples are
stored as they come, so a kill costs one child.
"""

import shutil
import time
import traceback
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cab import environment
from cab.contracts.case import Case, digest
from cab.contracts.meter import Meter
from cab.errors import UsageError
from cab.planning.plan import Item
from cab.plugins import registry
from cab.runner import locks
from cab.runner.correctness_gate import CHANGED, Laws, has_changed
from cab.runner.entries import finished, merged, new_entry, statuses
from cab.runner.fork_client import Server, ServerDied
from cab.runner.listener import Listener
from cab.runner.outcomes import Answer, judged
from cab.store.store import Store

BLOCK = 100  # items: the rounds of one timing are spread over about ten minutes
PREFLIGHT_SECONDS = 600.0
LAWS_SECONDS = 600.0  # at least: a short `timeout` is meant for the cases
SERVER_DEATHS = 3  # a case that takes the server with it so often is an error


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes what is asked."""

    data: Path
    force: bool = False
    retry: frozenset[str] = frozenset()


class Supervisor:
    """Carries out items on this machine."""

    def __init__(self, store: Store, server: Server, options: Options, listener: Listener) -> None:
        self.store, self.server, self.options, self.listener = store, server, options, listener
        self.run_id = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self._renewed: set[str] = set()  # files that this run has started anew
        self._laws = Laws(self._ask_laws)
        self._refused: dict[str, str] = {}
        self._compared: set[str] = set()  # cases whose first child of this run found them to be what they define
        # the lengths (n, m) that ran out of memory, by everything else that was asked
        self._too_long: dict[str, set[tuple[int, int]]] = {}

    def pending(self, items: Iterable[Item]) -> list[Item]:
        """Return the items that the store does not hold yet, or that are asked for again."""
        left = []
        for item in items:
            entry = self._kept(item)
            if entry is None or not finished(entry, item):
                left.append(item)
            elif statuses(entry)[0] == "oom":
                self._ran_out(item)
        return left

    def preflight(self, items: Sequence[Item], whole: bool = True) -> None:
        """Construct everything once, before anything is paid; `UsageError` says what is wrong.

        That nothing of the items can be measured is wrong where they are the `whole` plan.
        """
        cases = list({i.case.id: i.case.question() for i in items if not i.refusal}.values())
        if not cases:
            return
        self.listener.doing("preflight: importing plug-ins")
        answer = self._run(
            {"kind": "preflight", "cases": cases, "data": str(self.options.data)}, PREFLIGHT_SECONDS, None
        )
        if answer.status != "ok":
            raise UsageError(answer.reason)
        self._refused = answer.value["refused"]
        if whole and len(self._refused) == len(cases):
            reasons = dict.fromkeys(self._refused.values())
            raise UsageError(f"nothing of this can be measured: {'; '.join(list(reasons)[:5])}")

    def carry_out(self, items: Sequence[Item]) -> None:
        """Measure every item; each ends in the store with a status for every metric."""
        for start in range(0, len(items), BLOCK):
            block = list(items[start : start + BLOCK])
            deferred = list(block)
            last = max(item.processes for item in block) - 1
            for turn in range(last + 1):  # in the last round all are asked for, those of one process too
                deferred = self._round(_together(block), turn)
            while deferred:  # another run on this store had claimed them
                self.listener.doing("waiting for another run on this store")
                time.sleep(0.2)
                deferred = self._round(_together(deferred), last)

    def _round(self, groups: Iterable[list[Item]], turn: int) -> list[Item]:
        """Give each group of items one more process, up to `turn` + 1; return those that another run holds."""
        busy = []
        for group in groups:
            with locks.claim(self.store.folder / "locks" / f"{group[0].file}.lock") as mine:
                if not mine:
                    busy += group
                    continue
                for _ in range(turn + 1):  # usually one; more where an earlier round found it claimed
                    left = [item for item in group if not finished(self._kept(item), item, turn + 1)]
                    if not left:
                        break
                    self._process(left)
        return busy

    def _process(self, items: list[Item]) -> None:
        """Run one child for items of one case, and keep what it returns."""
        answers = self._answers(items)
        if len(items) > 1 and any(answers[item.meter].died for item in items):
            for item in items:  # one of these meters took the others with it: each by itself
                self._process([item])
            return
        if has_changed(items[0]):
            answers = {item.meter: CHANGED for item in items}
        details = {**environment.details(), "time": time.time()}
        for item in items:
            answer = answers[item.meter]
            entry = self._kept(item) or new_entry(item, self.run_id, environment.commit())
            self._renewed.add(item.file)
            log = self._keep_output(item, answer)
            try:
                self.store.write(kept := merged(entry, item, answer, details))
            except Exception as error:  # a meter's `reduce` or `search` gave what cannot be kept
                answer = Answer("error", f"{type(error).__name__}: {error}")
                self.store.write(kept := merged(entry, item, answer, details))
            entry = kept
            over = finished(entry, item)
            for note in answer.value.get("notes", ()):
                self.listener.note(f"{item.case.title}: {note}")
            if item.trains and answer.status == "ok":
                shutil.rmtree(self.store.checkpoint(item.file).parent, ignore_errors=True)
            if answer.status == "oom":
                self._ran_out(item)
            # a failure ends the item: none of its other processes will run
            self.listener.step(1 if answer.status == "ok" else item.processes - len(entry["processes"]))
            if over:
                status, reason = statuses(entry)
                self.listener.done(item, status, reason + log)

    def _answers(self, items: list[Item]) -> dict[str, Answer]:
        item, case = items[0], items[0].case
        refused = self._refused.get(case.id)
        if item.refusal or refused:
            return {i.meter: Answer(*(i.refusal or ("unsupported", refused or ""))) for i in items}
        for n, m in sorted(self._too_long.get(_but_lengths(item), ())):
            # near its limit a machine is not to be trusted: do not insist
            if case.n >= n and case.m >= m and (case.n, case.m) != (n, m):
                at = f"n={n}" if n == m else f"n={n} m={m}"
                return {i.meter: Answer("skipped", f"oom at {at}") for i in items}
        wrong = self._laws.against(item)
        if wrong:
            return {i.meter: wrong for i in items}
        threads = case.settings.get("threads") or environment.usable_cores()
        job = {"kind": "train" if item.trains else "measure", "case": case.question(), "threads": threads}
        job |= {"data": str(self.options.data), "pinned": item.pinned, "meters": [i.meter for i in items]}
        job["compared"] = case.id in self._compared
        on_gpu = case.device.startswith("cuda")  # there the limit is the device's memory, not the process's
        job["device_memory"], memory = (item.memory_limit, None) if on_gpu else (None, item.memory_limit)
        place = self.store.checkpoint(item.file)
        if item.trains:  # what a child before this one, or a run, has come to
            if self.options.force and item.file not in self._renewed:
                shutil.rmtree(place.parent, ignore_errors=True)
            job |= {"checkpoint": str(place)}
        what = f"{case.title}: {', '.join(i.meter for i in items)}"
        self.listener.doing(what)
        timed = item.hosted and not item.trains
        with locks.device(case.device, timed, lambda: self.listener.doing(f"waiting for the device: {what}")):
            if item.searches:
                return {item.meter: self._search(item, job, what)}
            answer = self._compared_apart(item, job) or self._run(job, item.timeout, memory, what)
        if answer.status in ("timeout", "oom") or (answer.status != "ok" and place.exists()):
            again = "goes on from its last checkpoint" if place.exists() else "asks again"
            answer = replace(answer, reason=f"{answer.reason}; --retry {answer.status} {again}")
        if item.trains or answer.status != "ok":
            return {i.meter: answer for i in items}
        if answer.value["compared"]:
            self._compared.add(case.id)
        return {name: Answer.of(given) for name, given in answer.value["meters"].items()}

    def _compared_apart(self, item: Item, job: dict[str, Any]) -> Answer | None:
        """Under a limit, compare in a child that has none: the definition's memory is not the mechanism's.

        Returns why nothing may be measured, or None; `job` then says that it has been compared.
        """
        if item.memory_limit is None or item.trains or not item.hosted or job["compared"]:
            return None  # what is counted on meta tensors is not compared: a million tokens cost it no memory
        answer = self._run({**job, "kind": "compare"}, item.timeout, None)
        job["compared"] = answer.status == "ok"
        return None if answer.status == "ok" else answer

    def _search(self, item: Item, job: dict[str, Any], what: str) -> Answer:
        """Let a meter probe the cases of its choosing, each in a child of its own."""

        def probe(case: Case, pinned: bool) -> tuple[str, str, Any]:
            asked = {**job, "case": case.question(), "pinned": pinned, "compared": False}
            memory = None if job["device_memory"] else item.memory_limit
            wrong = self._compared_apart(item, asked)
            answer = wrong or self._run(asked, item.timeout, memory, f"{what}: n={case.n}")
            answer = Answer.of(answer.value["meters"][item.meter]) if answer.status == "ok" else answer
            return answer.status, answer.reason, answer.value

        meter = registry.load("meter", item.meter)()
        assert isinstance(meter, Meter)
        try:
            return Answer("ok", value=meter.search(item.case, probe))
        except Exception as error:  # a plug-in's: it costs its own metrics only
            return Answer("error", f"{type(error).__name__}: {error}", output=traceback.format_exc())

    def _ran_out(self, item: Item) -> None:
        self._too_long.setdefault(_but_lengths(item), set()).add((item.case.n, item.case.m))

    def _ask_laws(self, item: Item) -> Answer:
        self.listener.doing(f"{item.case.mechanism} {item.case.pattern}: laws")
        asked = {name: getattr(item.case, name) for name in "mechanism pattern params backend device".split()}
        with locks.device(item.case.device, False):
            return self._run({"kind": "laws", **asked}, max(item.timeout, LAWS_SECONDS), None)

    def _run(self, job: dict[str, Any], deadline: float, memory: int | None, what: str = "") -> Answer:
        """Run a job in a child; whatever becomes of it is an answer."""
        limit = memory if memory is not None else int(0.9 * environment.available_memory())
        for _ in range(SERVER_DEATHS):
            try:
                ending = self.server.run(
                    job,
                    deadline,
                    limit,
                    lambda told: self.listener.doing(f"{what}: {told}" if told else what) if what else None,
                )
                return judged(ending, deadline, limit)
            except ServerDied as error:
                self.listener.note(
                    f"the fork server died and is started again ({str(error).strip()[-200:] or 'killed'})"
                )
                lost = str(error)
        return Answer("error", f"the fork server died {SERVER_DEATHS} times under this case", output=lost)

    def _kept(self, item: Item) -> dict[str, Any] | None:
        """Return what the store holds of an item, unless it is asked for anew."""
        entry = self.store.read(item.file)
        if entry is None or item.file in self._renewed:
            return entry
        found = {m["status"] for m in entry["metrics"].values()}
        again = self.options.force or found & self.options.retry or entry.get("again")
        # what ran out of memory, and what was skipped for it, under a limit that has been raised since
        limit = entry.get("memory_limit")
        raised = limit is not None and (item.memory_limit is None or item.memory_limit > limit)
        return None if again or (raised and found & {"oom", "skipped"}) else entry

    def _keep_output(self, item: Item, answer: Answer) -> str:
        """Keep what a failed child printed; return where, for the message."""
        if not answer.output.strip() or answer.status not in ("error", "oom", "timeout", "wrong"):
            return ""
        path = self.store.folder / "logs" / f"{item.file}.log"
        path.parent.mkdir(exist_ok=True)
        path.write_text(answer.output[-200_000:], errors="replace")
        return f" (its output: {path})"


def _but_lengths(item: Item) -> str:
    question = {**item.case.question(), "n": None, "m": None}
    return digest([question, item.meter, item.memory_limit])


def _together(items: Iterable[Item]) -> list[list[Item]]:
    """Group items that one child measures: those of a case whose answer does not depend on the host."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        alone = item.hosted or item.trains or item.searches or item.processes > 1
        groups.setdefault((item.case.id, item.meter if alone else "", bool(item.refusal)), []).append(item)
    return list(groups.values())
