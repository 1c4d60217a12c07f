"""A run on a cluster: nothing is lost or done twice, whatever becomes of the jobs. The cluster is a stub.

Its jobs write what they were asked into the store as nodes with names of their own would.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from cab import environment
from cab.contracts.messages import LawsAnswer, Samples
from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.planning.plan import ClusterSettings, plan
from cab.runner import cluster, verdict_cache
from cab.runner.bundle_work import ProgressFile
from cab.runner.bundles import Bundle, Done, write_done
from cab.runner.cluster import ClusterRun
from cab.runner.correctness_gate import under_laws
from cab.runner.entries import new_entry, with_outcome
from cab.runner.outcomes import Outcome
from cab.runner.supervisor import Options
from cab.store import controls
from cab.store.controls import Control
from cab.store.store import Store
from cab.terminal.progress import Display
from tests.runner.example_runs import FAST, Notes

GRID = [*FAST, "mechanism=none,mean", "seq_len=16,32", "meters=[latency]"]


class StubCluster:
    """Runs a job at once. `fates` says what becomes of each, in their order: how many measurements it finishes."""

    def __init__(self, store: Store, fates: Iterable[int | str] = (), leaves_jobs: bool = False) -> None:
        self.store, self.fates, self.leaves_jobs = store, list(fates), leaves_jobs
        self.bundles: list[Bundle] = []
        self.alive: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.measured: list[str] = []  # case ids
        self.control_seconds: dict[str, float] = {}  # node -> what its controls take

    def submit(self, folder: Path, bundles: Sequence[Bundle]) -> Mapping[int, str]:
        for bundle in bundles:
            self.bundles.append(bundle)
            fate = self.fates.pop(0) if self.fates else "ends"
            node = f"n{len(self.bundles)}"
            if fate == "runs":
                self.alive[f"job_{bundle.number}"] = f"running on {node}"
                continue
            finished = list(bundle.measurements)[: fate if isinstance(fate, int) else None]
            for measurement in [] if bundle.laws_only or fate == "refuses" else finished:
                self.measure(measurement, node, bundle.run_id, bundle.name)
            if seconds := self.control_seconds.get(node):
                controls.keep(self.store.folder, Control(bundle.run_id, bundle.number, {"host": node}, seconds))
            if not isinstance(fate, int):
                verdicts = {"key": LawsAnswer([], {}, 1)} if bundle.laws_only else {}
                write_done(folder, bundle.number, Done(node, "no torch" if fate == "refuses" else "", verdicts))
        return {bundle.number: f"job_{bundle.number}" for bundle in bundles}

    def measure(self, measurement: Measurement, node: str, run_id: str, bundle: str = "") -> None:
        there = measurement.on({**measurement.identity, "host": node})
        samples = Samples({name: {"samples": [1.0, 2.0, 3.0]} for name in there.metrics})
        entry = new_entry(there, run_id, "commit")
        for _ in range(there.processes):
            entry = with_outcome(entry, there, Outcome("ok", answer=samples), {"bundle": bundle})
        self.store.write(entry)
        self.measured.append(measurement.case.id)

    def living(self, jobs: Iterable[str]) -> Mapping[str, str] | None:
        return {job: self.alive[job] for job in jobs if job in self.alive}

    def cancel(self, jobs: Iterable[str]) -> None:
        self.cancelled += jobs

    def without(self, nodes: Sequence[str]) -> str:
        return f"without {', '.join(nodes)}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "POLL", 0.01)
    monkeypatch.setattr(cluster, "GRACE", 0.02)


@pytest.fixture
def store(elsewhere: Path) -> Store:
    return Store(elsewhere / "results").open_for_writing()


def run(stub: StubCluster, retries: int = 2, **options: object) -> tuple[list[Measurement], Notes]:
    notes = Notes()
    settings = ClusterSettings(bundle_minutes=0.01, retries=retries)  # a bundle a case
    made = ClusterRun(stub, stub.store, Options(Path("data"), **options), notes, settings)  # type: ignore[arg-type]
    return made.carry_out(plan(GRID).measurements), notes


def test_every_case_is_measured_once_and_found_under_its_nodes_key(store: Store, lawful: None) -> None:
    stub = StubCluster(store)
    measurements, _ = run(stub)
    assert len(stub.bundles) == len(set(stub.measured)) == len(stub.measured) == 4
    entries = [store.read(each.file) for each in measurements]
    assert {entry.environment["host"] for entry in entries if entry} == {"n1", "n2", "n3", "n4"}
    again = StubCluster(store)
    assert run(again)[0] == measurements and not again.bundles, "what any node has finished is not submitted"


def test_what_a_lost_job_left_is_submitted_again_and_what_it_finished_stays(store: Store, lawful: None) -> None:
    stub = StubCluster(store, fates=[0, 1, 0, "ends"])
    measurements, notes = run(stub)
    assert len(stub.bundles) == 6 and [bundle.attempt for bundle in stub.bundles] == [0, 0, 0, 0, 1, 1]
    assert len(set(stub.measured)) == len(stub.measured) == 4
    assert all(store.read(each.file) for each in measurements)
    assert len([note for note in notes.notes if "submitted again" in note]) == 2


def test_with_force_a_lost_job_costs_nothing_that_this_run_has_measured(store: Store, lawful: None) -> None:
    run(StubCluster(store))
    stub = StubCluster(store, fates=[1, 0])
    run(stub, force=True)
    assert sorted(stub.measured) == sorted(each.case.id for each in plan(GRID).measurements)


def test_a_job_that_is_lost_too_often_is_given_up_and_named(store: Store, lawful: None) -> None:
    stub = StubCluster(store, fates=["ends", "ends", "ends", 0, 0, 0])
    measurements, notes = run(stub, retries=2)
    assert [store.read(each.file) is None for each in measurements].count(True) == 1
    assert "job_6 was lost" in notes.notes[-1] and "given up after 3 attempts" in notes.notes[-1]


def test_what_nodes_cannot_import_is_an_error_that_names_the_node(store: Store, lawful: None) -> None:
    with pytest.raises(UsageError, match="on n1: no torch"):
        run(StubCluster(store, fates=["refuses"]))


def test_where_one_kind_of_bundles_is_refused_the_others_do_not_go_on(
    store: Store, lawful: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Choosy(StubCluster):
        def submit(self, folder: Path, bundles: Sequence[Bundle]) -> Mapping[int, str]:
            if not bundles[0].is_timed:
                raise UsageError("sbatch refused: too many jobs")
            return super().submit(folder, bundles)

    monkeypatch.setitem(globals(), "GRID", [*GRID, "meters=[latency,flops]"])
    stub = Choosy(store, fates=4 * ["runs"])
    with pytest.raises(UsageError, match="too many jobs"):
        run(stub)
    assert sorted(stub.cancelled) == sorted(stub.alive) and len(stub.cancelled) == 4


class Interrupted(StubCluster):
    """Ctrl-C comes while two jobs run."""

    def living(self, jobs: Iterable[str]) -> Mapping[str, str] | None:
        if len(self.alive) == 2 and list(jobs):
            raise KeyboardInterrupt
        return super().living(jobs)


def test_ctrl_c_cancels_the_jobs(store: Store, lawful: None) -> None:
    stub = Interrupted(store, fates=["runs", "ends", "runs", "ends"])
    with pytest.raises(KeyboardInterrupt):
        run(stub)
    assert {"job_1", "job_3"} <= set(stub.cancelled)


@pytest.mark.parametrize(("force", "elsewhere_submitted"), [(False, False), (True, False), (False, True)])
def test_or_leaves_them_and_the_same_command_attaches(
    force: bool, elsewhere_submitted: bool, store: Store, lawful: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command with --force, too, and from another login node."""
    first = Interrupted(store, fates=["runs", "ends", "runs", "ends"], leaves_jobs=True)
    with pytest.raises(KeyboardInterrupt):
        run(first, force=force)
    assert not first.cancelled
    if elsewhere_submitted:
        real = environment.identity
        other = {"host": "login2", "threads": 96}
        monkeypatch.setattr(environment, "identity", lambda *arguments: {**real(*arguments), **other})

    class Later(StubCluster):
        looks = 0

        def living(self, jobs: Iterable[str]) -> Mapping[str, str] | None:
            self.looks += 1
            if self.looks == 3:  # now they end
                self.alive.clear()
                for bundle in (first.bundles[0], first.bundles[2]):
                    for measurement in bundle.measurements:
                        self.measure(measurement, "n9", bundle.run_id)
                    (folder,) = (store.folder / "clusters").glob(bundle.run_id)
                    write_done(folder, bundle.number, Done("n9"))
            return super().living(jobs)

    second = Later(store)
    second.alive = dict(first.alive)
    measurements, notes = run(second, force=force)
    assert not second.bundles and "attached to 2 jobs of an earlier run" in notes.notes
    assert all(store.read(each.file) for each in measurements)
    assert len(list(store.entries())) == 4, "nothing was measured twice"


def test_an_attached_job_counts_what_is_left_of_this_command_alone(store: Store, lawful: None) -> None:
    """The job has ended one measurement and half of another before it is attached, and has one of another plan."""

    class Killed(StubCluster):
        def living(self, jobs: Iterable[str]) -> Mapping[str, str] | None:
            if list(jobs):
                raise KeyboardInterrupt
            return {}

    first, settings = Killed(store, fates=["runs"], leaves_jobs=True), ClusterSettings(bundle_minutes=1000)
    wider = plan([*GRID, "mechanism=none,mean", "seq_len=16,32,64"]).measurements
    with pytest.raises(KeyboardInterrupt):
        ClusterRun(first, store, Options(Path("data")), Notes(), settings).carry_out(wider)
    (bundle,) = first.bundles
    folder = store.folder / "clusters" / bundle.run_id
    numbers = {(each.case.id, each.meter): number for number, each in enumerate(bundle.measurements)}
    asked = plan(GRID).measurements
    foreign = [each for each in bundle.measurements if each.file not in {asked.file for asked in asked}]

    def progress(measurement: Measurement, children: int, done: bool) -> None:
        with ProgressFile(folder / "1.progress", numbers) as file:
            for _ in range(children):
                file.step(measurement, 1, 0)
            if done:
                file.done(measurement, "ok", "")
                first.measure(measurement, "n1", bundle.run_id)

    progress(asked[0], 5, True)
    progress(foreign[0], 5, True)
    progress(asked[1], 2, False)

    class Later(StubCluster):
        looks = 0

        def living(self, jobs: Iterable[str]) -> Mapping[str, str] | None:
            self.looks += 1
            if self.looks == 3:
                progress(asked[1], 3, True)
                progress(asked[2], 5, True)
                progress(asked[3], 5, True)
                write_done(folder, 1, Done("n1"))
            return super().living(jobs)

    second, out = Later(store), io.StringIO()
    second.alive = dict(first.alive)
    with Display(Console(file=out, width=200)) as display:
        ClusterRun(second, store, Options(Path("data")), display, settings).carry_out(asked)
    assert (display._children, display._ended) == (15, 15)
    ended = [line for line in out.getvalue().splitlines() if " ok" in line]
    assert [line.split("]")[0] for line in ended] == ["[2/4 cases", "[3/4 cases", "[4/4 cases"]


def test_a_scheduler_that_is_away_when_a_rest_is_submitted_is_asked_again(store: Store, lawful: None) -> None:
    class Away(StubCluster):
        submissions = 0

        def submit(self, folder: Path, bundles: Sequence[Bundle]) -> Mapping[int, str]:
            self.submissions += 1
            if 2 <= self.submissions <= 5:
                raise UsageError("sbatch refused: Unable to contact slurm controller")
            return super().submit(folder, bundles)

    stub = Away(store, fates=[0, 0])
    measurements, notes = run(stub)
    assert all(store.read(each.file) for each in measurements) and not stub.cancelled
    assert sorted(stub.measured) == sorted(each.case.id for each in plan(GRID).measurements)
    assert len([note for note in notes.notes if "Unable to contact" in note]) == 1
    assert len({bundle.number for bundle in stub.bundles}) == len(stub.bundles) == 6


def test_damaged_lines_of_a_jobs_progress_are_passed_over(store: Store, lawful: None) -> None:
    class Damaged(StubCluster):
        def submit(self, folder: Path, bundles: Sequence[Bundle]) -> Mapping[int, str]:
            lines = ['{"note": "before"}', '{"done": 0, "sta', "\0\0", "\udcff", "3", "", '{"note": "after"}']
            for each in bundles:
                (folder / f"{each.number}.progress").write_text("\n".join(lines) + "\n", errors="surrogateescape")
            return super().submit(folder, bundles)

    stub = Damaged(store)
    measurements, notes = run(stub)
    assert notes.notes == 4 * ["before", "after"] and all(store.read(each.file) for each in measurements)


def test_a_scheduler_that_does_not_answer_is_waited_for(store: Store, lawful: None) -> None:
    class Silent(StubCluster):
        looks = 0

        def living(self, jobs: Iterable[str]) -> Mapping[str, str] | None:
            self.looks += 1
            return None if 2 <= self.looks <= 20 else super().living(jobs)

    _, notes = run(Silent(store, fates=[0]))
    assert notes.notes.count("the cluster does not answer; waiting for it") == 1
    assert any("submitted again" in note for note in notes.notes)


def test_laws_are_run_once_by_one_job_and_their_verdicts_travel(
    store: Store, monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    monkeypatch.setenv("CAB_CACHE", str(elsewhere / "cache"))
    monkeypatch.setattr(cluster.verdict_cache, "key", lambda case: "key")
    stub = StubCluster(store)
    run(stub)
    assert [bundle.laws_only for bundle in stub.bundles] == [True, False, False, False, False]
    assert all(bundle.verdicts == {"key": LawsAnswer([], {}, 1)} for bundle in stub.bundles[1:])


def test_the_verdicts_of_baselines_travel_too(store: Store, monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    monkeypatch.setenv("CAB_CACHE", str(elsewhere / "cache"))
    asked = [*FAST, "mechanism=mean,linear", "baseline=softmax", "seq_len=16", "meters=[latency_ratio]"]
    measurements = plan(asked).measurements
    keys = {each.case.mechanism: verdict_cache.key(each.case) for each in under_laws(measurements[0])}

    class Lawful(StubCluster):
        def submit(self, folder: Path, bundles: Sequence[Bundle]) -> Mapping[int, str]:
            for each in bundles[0].measurements if bundles[0].laws_only else ():
                verdict_cache.keep(verdict_cache.key(each.case), LawsAnswer([], {}, 1))
            return super().submit(folder, bundles)

    stub = Lawful(store, fates=["ends", "refuses", "refuses"])
    made = ClusterRun(stub, store, Options(Path("data")), Notes(), ClusterSettings(bundle_minutes=0.01))
    with pytest.raises(UsageError, match="no torch"):
        made.carry_out(measurements)
    laws, of_mean, of_linear = stub.bundles
    assert sorted(each.case.mechanism for each in laws.measurements) == ["linear", "mean", "softmax"]
    assert set(of_mean.verdicts) == set(keys.values()) and set(keys) == {"mean", "softmax"}
    assert set(of_linear.verdicts) & set(of_mean.verdicts) == {keys["softmax"]} and len(of_linear.verdicts) == 2


UNLIKE = {"n1": 1e-3, "n2": 1e-3, "n3": 1e-3, "n4": 2e-3}


def test_an_excluded_node_is_named_with_the_cases_that_it_alone_measured(store: Store, lawful: None) -> None:
    stub = StubCluster(store)
    stub.control_seconds = UNLIKE
    _, notes = run(stub)
    node, advice = notes.notes
    assert node.startswith("node n4 is excluded: its control took 2.00 times") and "remove" not in node
    (path,) = (store.folder / "clusters").glob("*/excluded.txt")
    assert path.read_text().split() == [stub.bundles[3].measurements[0].case.id]
    assert advice == (
        f"to measure the cases of excluded nodes (1) on others: cab results remove --results {store.folder} "
        f"status=skipped $(cat {path}), and the same command without n4"
    )


def test_the_nodes_of_a_run_that_ends_in_an_error_are_judged(store: Store, lawful: None) -> None:
    stub, notes = StubCluster(store, fates=["refuses"]), Notes()
    stub.control_seconds = UNLIKE
    made = ClusterRun(stub, store, Options(Path("data")), notes, ClusterSettings(bundle_minutes=0.01))
    with pytest.raises(UsageError, match="no torch"):
        made.carry_out(plan(GRID).measurements)
    assert notes.notes[0].startswith("node n4 is excluded")


def test_the_nodes_of_an_earlier_run_that_was_attached_are_judged(store: Store, lawful: None) -> None:
    first = Interrupted(store, fates=["ends", "runs", "runs", "ends"], leaves_jobs=True)
    first.control_seconds = UNLIKE
    with pytest.raises(KeyboardInterrupt):
        run(first)
    earlier = first.bundles[0].run_id
    for number, node in ((2, "n2"), (3, "n3")):
        controls.keep(store.folder, Control(earlier, number, {"host": node}, UNLIKE[node]))

    class Ending(StubCluster):
        """The jobs of the first run end after they were seen."""

        def living(self, jobs: Iterable[str]) -> Mapping[str, str] | None:
            states = super().living(jobs)
            for bundle in first.bundles[1:3]:
                self.measure(bundle.measurements[0], "n9", bundle.run_id)
                write_done(store.folder / "clusters" / bundle.run_id, bundle.number, Done("n9"))
            return states

    second = Ending(store)
    second.alive = dict(first.alive)
    _, notes = run(second)
    assert any(note.startswith("node n4 is excluded") for note in notes.notes) and not second.bundles
