"""Every planned case ends as a row with a status, whatever its child does; what is finished is not run again."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cab.contracts.messages import (
    ChildExit,
    CompareAnswer,
    CompareJob,
    Failure,
    MeasureAnswer,
    MeasureJob,
    Samples,
)
from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.planning.plan import plan
from cab.plugins import registry
from cab.runner import entries
from cab.runner import supervisor as supervisor_module
from cab.runner.entries import is_finished, new_entry, with_outcome
from cab.runner.fork_client import Ending, ForkClient, ServerDied
from cab.runner.listener import Listener
from cab.runner.outcomes import Outcome
from cab.runner.supervisor import Options, Supervisor, counts
from cab.store import claims
from cab.store import store as store_module
from cab.store.store import Store
from cab.terminal.progress import Display
from tests.runner.example_runs import (
    ATTEND,
    DEADLY,
    FAST,
    Notes,
    by_length,
    carry_out,
    measure,
    ratio_samples,
    results,
    users_file,
)

EXITED = ChildExit("ended", 0, None, 0, 1.0)


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("raise", "error", "RuntimeError: it went wrong"),
        ("exit", "error", "exited with code 9 and left no result"),
        ("kill", "error", "killed by SIGKILL"),
        ("segfault", "error", "killed by SIGSEGV"),
        ("memory", "oom", "memory"),
        ("poison", "wrong", "finite"),
    ],
)
def test_a_death_is_a_row_with_its_status_and_costs_its_own_metrics_only(
    server: ForkClient, lawful: None, elsewhere: Path, how: str, status: str, reason: str
) -> None:
    metrics, _ = measure(server, [f"mechanism={DEADLY}", f"mechanism.how={how}", "seq_len=512"], elsewhere)
    assert {metric.status for metric in metrics["memory"].values()} == {status}
    assert all(reason in metric.reason for metric in metrics["memory"].values())
    assert metrics["flops"]["flops"].status == "ok"


def test_a_case_is_compared_once_a_run_and_a_wrong_one_in_every_child(
    server: ForkClient, lawful: None, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bool] = []
    run = server.run

    def spied(job: Any, *rest: Any) -> Any:
        if isinstance(job, MeasureJob):
            compared.append(job.compared)
        return run(job, *rest)

    monkeypatch.setattr(server, "run", spied)
    meters = "meters=[latency,memory]"
    carry_out(server, ["mechanism=softmax", "seq_len=32", meters], elsewhere)
    assert compared == [False, True, True, True, True, True]  # five processes of latency, one of memory
    carry_out(server, ["mechanism=softmax", "seq_len=32", meters], elsewhere, force=True)
    assert compared[6:] == compared[:6]
    metrics, _ = measure(server, [f"mechanism={DEADLY}", "mechanism.how=poison", "seq_len=512", meters], elsewhere)
    assert compared[12:] == [False, False]
    assert {metric.status for of_meter in metrics.values() for metric in of_meter.values()} == {"wrong"}


def test_an_endless_loop_ends_at_the_deadline(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    overrides = [f"mechanism={DEADLY}", "mechanism.how=loop", "seq_len=512", "timeout=3"]
    metrics, _ = measure(server, overrides, elsewhere)
    assert metrics["memory"]["peak_allocated"].status == "timeout"
    assert "more than 3 s" in metrics["memory"]["peak_allocated"].reason


def test_a_grandchild_that_escapes_is_killed(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    carry_out(server, [f"mechanism={DEADLY}", "mechanism.how=escape", "seq_len=512"], elsewhere)
    assert not [line for line in _command_lines() if "cab-escaped-grandchild" in line]


def _command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return lines


def test_a_memory_limit_ends_as_oom(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    metrics, _ = measure(server, ["mechanism=softmax", "seq_len=8192", "memory_limit=200MiB"], elsewhere)
    assert metrics["memory"]["peak_allocated"].status == "oom"
    assert metrics["flops"]["flops"].value == 2 * 8192**2 * 8


def test_a_definition_that_needs_more_than_the_limit_is_not_the_mechanism(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    body = f"{ATTEND}    return v\n\n{ATTEND.replace('attend', 'reference')}    torch.ones(2**27)\n    return v\n"
    grid = [f"mechanism={users_file(elsewhere, body)}", "seq_len=64", "memory_limit=200MiB", "meters=[memory]"]
    metrics, _ = measure(server, grid, elsewhere)
    assert metrics["memory"]["peak_allocated"].status == "ok"
    users_file(elsewhere, body.replace("torch.ones(2**27)", "v = v + 1"))
    metrics, _ = measure(server, grid, elsewhere)
    assert metrics["memory"]["peak_allocated"].status == "wrong"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("out + v.mean(2, keepdim=True)", "is not causal at 500 tokens"),
        ("out[:, :, :-1]", r"shape"),
        ("out * float('nan')", "finite"),
    ],
)
def test_a_fault_that_begins_beyond_the_laws_lengths_gives_no_number(
    output: str, reason: str, server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    body = f"{ATTEND}    out = v.cumsum(2)\n    return {output} if v.shape[2] > 400 else out\n"
    name = users_file(elsewhere, body, "{'CS': 'native'}")
    grid = [f"mechanism={name}", "pattern=CS", "seq_len=100,500", "meters=[memory]"]
    peaks = by_length(server, grid, "peak_allocated", elsewhere, preflight=False)
    assert peaks[100, 100].status == "ok" and peaks[500, 500].status == "wrong"
    assert re.search(reason, peaks[500, 500].reason)


def test_what_is_longer_than_what_ran_out_of_memory_is_skipped(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    grid = ["mechanism=softmax", "seq_len=64,8192,16384", "memory_limit=200MiB", "meters=[memory]"]
    for _ in range(2):  # because of this run's child, and of what the store remembers
        peaks = by_length(server, grid, "peak_allocated", elsewhere, preflight=False, retry=frozenset({"skipped"}))
        assert [peaks[n, n].status for n in (64, 8192, 16384)] == ["ok", "oom", "skipped"]
        assert peaks[16384, 16384].reason == "oom at n=8192"


@pytest.mark.usefixtures("lawful")
def test_on_a_raster_what_is_longer_than_what_ran_out_of_memory_is_skipped_too(tmp_path: Path) -> None:
    """On a stand-in for the fork server, with room for 300 tokens."""

    class SmallServer:
        def run(self, job: Any, *_: Any) -> Ending:
            samples = Samples({name: {"samples": [1.0]} for name in ("peak_allocated", "peak_resident")})
            answer = MeasureAnswer({"memory": samples}, True, 1.0) if job.case.n < 300 else Failure("oom", "no memory")
            return Ending(answer, EXITED, "")

    grid = ["mechanism=none", "raster=square", "seq_len=256,400,1024", "meters=[memory]"]
    peaks = by_length(SmallServer(), grid, "peak_allocated", tmp_path, preflight=False)
    assert [peaks[n, n].status for n in (256, 400, 1024)] == ["ok", "oom", "skipped"]


@pytest.mark.usefixtures("lawful")
def test_a_shorter_source_is_not_skipped_for_a_longer_one(tmp_path: Path) -> None:
    """On a stand-in for the fork server, with room for 2^20 pairs of n and m."""

    class SmallServer:
        def run(self, job: Any, *_: Any) -> Ending:
            samples = Samples({name: {"samples": [1.0]} for name in ("peak_allocated", "peak_resident")})
            fits = job.case.n * job.case.m < 2**20
            answer = MeasureAnswer({"memory": samples}, True, 1.0) if fits else Failure("oom", "out of memory")
            return Ending(answer, EXITED, "")

    grid = ["mechanism=none", "pattern=NC", "seq_len=64,128", "source_len=65536,16", "meters=[memory]"]
    peaks = by_length(SmallServer(), grid, "peak_allocated", tmp_path, preflight=False)
    assert {lengths: metric.status for lengths, metric in peaks.items()} == {
        (64, 65536): "oom", (128, 65536): "skipped", (64, 16): "ok", (128, 16): "ok",
    }  # fmt: skip
    assert peaks[128, 65536].reason == "oom at n=64 m=65536"


def test_a_constructor_too_large_for_the_machine_costs_its_own_case_alone(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    constructor = (
        "def __init__(self, slot):\n    super().__init__(slot)\n    torch.empty(2**60 if slot.max_len > 100 else 1)\n"
    )
    name = users_file(elsewhere, f"{constructor}\n{ATTEND}    return v\n")
    counts = by_length(server, [f"mechanism={name}", "seq_len=64,128", "meters=[parameters]"], "parameters", elsewhere)
    assert [counts[n, n].status for n in (64, 128)] == ["ok", "oom"]


def test_the_servers_death_costs_nothing_but_time(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    metrics, notes = measure(server, ["mechanism=softmax", "seq_len=64"], elsewhere)
    assert metrics["memory"]["peak_allocated"].status == "ok"
    assert any("fork server died" in note for note in notes.notes)


def test_the_same_command_again_runs_only_what_is_missing(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    first, notes = measure(server, ["mechanism=softmax", "seq_len=64", "meters=[memory]"], elsewhere)
    assert [meter for meter, _, _ in notes.ended] == ["memory"]
    again, notes = measure(server, ["mechanism=softmax", "seq_len=64", "meters=[memory,flops]"], elsewhere)
    assert [meter for meter, _, _ in notes.ended] == ["flops"]
    assert again["memory"] == first["memory"]
    _, notes = measure(server, ["mechanism=softmax", "seq_len=64"], elsewhere, force=True)
    assert sorted(meter for meter, _, _ in notes.ended) == ["flops", "memory"]


def test_failures_are_tried_again_only_where_asked(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    overrides = [f"mechanism={DEADLY}", "mechanism.how=raise", "seq_len=512"]
    carry_out(server, overrides, elsewhere)
    _, notes = carry_out(server, overrides, elsewhere)
    assert notes.ended == []
    _, notes = carry_out(server, overrides, elsewhere, retry=frozenset({"error"}))
    assert [(meter, status) for meter, status, _ in notes.ended] == [("memory", "error")]


def test_a_timing_short_of_processes_is_topped_up(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    overrides = ["mechanism=none", "seq_len=16", "meters=[latency]"]
    (measurement,), _ = carry_out(server, overrides, elsewhere)
    store = Store(elsewhere / "results")
    entry = store.read(measurement.file)
    assert entry is not None and len(entry.processes) == 5 and entry.metrics["latency"].processes == 5
    first_two = entry.processes[:2]
    store.write(replace(entry, processes=first_two))
    assert not is_finished(store.read(measurement.file), measurement)
    carry_out(server, overrides, elsewhere)
    entry = store.read(measurement.file)
    assert entry is not None and len(entry.processes) == 5 and entry.processes[:2] == first_two


def test_the_readmes_mechanism_is_lawful_and_measured(server: ForkClient, elsewhere: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = [part for part in readme.split("```python\n") if "class MyAttention" in part]
    (elsewhere / "my_attention.py").write_text(block.partition("```")[0])
    metrics, _ = measure(server, ["mechanism=./my_attention.py:MyAttention", "pattern=CS", "seq_len=64"], elsewhere)
    assert metrics["memory"]["peak_allocated"].status == metrics["flops"]["flops_counted"].status == "ok"
    assert "flops" not in metrics["flops"]  # a closed form that nobody wrote is not asked for


def test_a_broken_mechanism_gets_no_number(server: ForkClient, elsewhere: Path) -> None:
    pooled = f"{ATTEND}    return v.mean(2, keepdim=True).expand_as(v).contiguous()\n\nreference = attend\n"
    flops = "def flops(self, n, m, backend='eager'):\n    return 0.0\n"
    name = users_file(elsewhere, f"{pooled}\n{flops}", "{'CS': 'native'}")
    metrics, _ = measure(server, [f"mechanism={name}", "pattern=CS", "seq_len=64"], elsewhere)
    for of_meter in metrics.values():
        assert {metric.status for metric in of_meter.values()} == {"wrong"}
        assert all(metric.value is None for metric in of_meter.values())
        assert all(metric.reason.startswith("law ") for metric in of_meter.values())


def test_what_is_unsupported_is_a_row_and_the_rest_is_measured(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    grid = ["mechanism=softmax,none", "seq_len=16", "backend=sdpa", "meters=[flops]"]
    measurements, _ = carry_out(server, grid, elsewhere)
    flops = {each.case.mechanism: results(each, elsewhere)["flops"] for each in measurements}
    assert flops["softmax"].status == "ok" and flops["none"].status == "unsupported"
    assert flops["none"].reason == "none has no backend sdpa (it has eager, compile)"


def test_what_does_not_fit_one_length_is_unsupported_there_and_measured_at_another(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    overrides = ["mechanism=agent", "mechanism.agents=49", "seq_len=16,64", "meters=[flops]"]
    flops = by_length(server, overrides, "flops", elsewhere)
    assert flops[64, 64].status == "ok" and flops[16, 16].status == "unsupported"
    assert flops[16, 16].reason == "agents=49: from 1 to the 16 queries of the slot"
    with pytest.raises(UsageError, match="mechanism 'agent': agents=0"):
        carry_out(server, ["mechanism=agent", "mechanism.agents=0"], elsewhere)


MINE = "from cab import Mechanism\n\n\nclass Mine(Mechanism):\n    patterns = {'NS': 'native'}\n"
REFUSES = "\n    def __init__(self, slot):\n        super().__init__(slot)\n        raise ValueError('window=0')\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"import nothing_of_that_name\n{MINE}", "does not import: ModuleNotFoundError"),
        (MINE + REFUSES, "window=0"),
    ],
)
def test_preflight_finds_what_is_wrong_before_anything_is_paid(
    server: ForkClient, elsewhere: Path, source: str, message: str
) -> None:
    (elsewhere / "mine.py").write_text(source)
    with pytest.raises(UsageError, match=message):
        carry_out(server, ["mechanism=./mine.py:Mine"], elsewhere)
    assert not list((elsewhere / "results" / "cases").glob("*/*"))


def test_a_damaged_file_is_set_aside_and_the_command_goes_on(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    overrides = ["mechanism=none", "seq_len=16", "meters=[flops]"]
    carry_out(server, overrides, elsewhere)
    (path,) = (elsewhere / "results" / "cases").glob("*/*.json")
    path.write_text(path.read_text()[:100])
    metrics, _ = measure(server, overrides, elsewhere)
    assert metrics["flops"]["flops"].status == "ok"
    assert (elsewhere / "results" / "damaged" / path.name).read_text().startswith('{"schema"')


def test_a_case_that_another_run_has_claimed_is_waited_for(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    overrides = ["mechanism=none", "seq_len=16", "meters=[flops]"]
    (measurement,) = plan([*FAST, *overrides]).measurements
    lock = elsewhere / "results" / "locks" / f"{measurement.file}.lock"
    hold = "import sys, time; from pathlib import Path; from cab.store.claims import claim\n"
    hold += "with claim(Path(sys.argv[1])) as held: print(held is not None, flush=True); time.sleep(2)"
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        start = time.monotonic()
        metrics, _ = measure(server, overrides, elsewhere)
        assert metrics["flops"]["flops"].status == "ok" and other.wait() == 0
        assert time.monotonic() - start > 1


def test_work_that_another_run_gives_up_is_done_though_its_round_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The memory of one case is claimed in the first of five rounds of its latency, and free afterwards."""
    measurements = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[latency,memory]"]).measurements
    (memory,) = [each for each in measurements if each.meter == "memory"]
    supervisor = Supervisor(Store(tmp_path).open_for_writing(), None, Options(tmp_path), Notes())  # type: ignore[arg-type]
    claimed_by_another: list[Path] = []
    measured: list[str] = []
    real_claim = claims.claim

    @contextmanager
    def claim(path: Path, waiting: Any) -> Iterator[Any]:
        free = memory.file not in path.name or bool(claimed_by_another)
        if not free:
            claimed_by_another.append(path)
        with real_claim(path) as held:
            yield held if free else None

    def run_child(group: list[Any], held: Any) -> bool:
        for each in group:
            measured.append(each.meter)
            entry = supervisor._entry(each) or new_entry(each, "r", "c")
            samples = Samples({name: {"samples": [1.0]} for name in each.metrics})
            supervisor.store.write(with_outcome(entry, each, Outcome("ok", answer=samples), {}))
        return True

    monkeypatch.setattr(claims, "claim", claim)
    monkeypatch.setattr(supervisor, "_run_child", run_child)
    supervisor.carry_out(measurements)
    assert claimed_by_another and measured.count("latency") == 5 and measured.count("memory") == 1


@pytest.mark.usefixtures("lawful")
def test_an_answer_after_the_claim_was_lost_is_dropped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (measurement,) = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[memory]"]).measurements
    notes = Notes()
    supervisor = Supervisor(Store(tmp_path).open_for_writing(), None, Options(tmp_path), notes)  # type: ignore[arg-type]
    samples = Samples({name: {"samples": [2.0]} for name in measurement.metrics})

    def finished_by_another(each: Any) -> Any:
        entry = new_entry(measurement, "another", "c")
        theirs = Samples({name: {"samples": [1.0]} for name in measurement.metrics})
        supervisor.store.write(with_outcome(entry, measurement, Outcome("ok", answer=theirs), {}))
        return {"memory": Outcome("ok", answer=samples)}

    monkeypatch.setattr(supervisor, "_outcomes", finished_by_another)
    assert not supervisor._run_child([measurement], lambda: True)
    entry = supervisor.store.read(measurement.file)
    assert entry is not None and entry.run_id == "another" and len(entry.processes) == 1
    assert not supervisor._run_child([measurement], lambda: False)
    entry = supervisor.store.read(measurement.file)
    assert entry is not None and entry.run_id == "another"


@pytest.mark.usefixtures("lawful")
def test_a_meter_that_takes_the_child_with_it_costs_no_other_meter(tmp_path: Path) -> None:
    """On a stand-in for the fork server, whose children die while they count parameters."""

    class DeadlyServer:
        def run(self, job: Any, *_: Any) -> Ending:
            if "parameters" in job.meters:
                return Ending(None, ChildExit("ended", None, 11, 0, 1.0), "")
            counted = {name: {"samples": [1.0]} for name in registry.card("meter", "flops").facts["metrics"]}
            return Ending(MeasureAnswer({"flops": Samples(counted)}, False, 1.0), EXITED, "")

    grid = ["mechanism=none", "seq_len=16", "meters=[flops,parameters]"]
    measurements, _ = carry_out(DeadlyServer(), grid, tmp_path, preflight=False)
    statuses = {each.meter: {metric.status for metric in results(each, tmp_path).values()} for each in measurements}
    assert statuses == {"flops": {"ok"}, "parameters": {"error"}}


def test_a_source_that_changes_during_the_run_gives_no_number(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    name = users_file(elsewhere, f"{ATTEND}    return v\n")
    overrides = [f"mechanism={name}", "seq_len=16", "meters=[parameters]"]
    store = Store(elsewhere / "results").open_for_writing()
    (measurement,) = plan([*FAST, *overrides]).measurements
    users_file(elsewhere, f"{ATTEND}    return 2 * v\n")
    Supervisor(store, server, Options(elsewhere), Notes()).carry_out([measurement])
    metrics = results(measurement, elsewhere).values()
    assert {metric.status for metric in metrics} == {"error"}
    assert all("changed during the run" in metric.reason for metric in metrics)
    users_file(elsewhere, f"{ATTEND}    return v\n")  # undone
    again, _ = measure(server, overrides, elsewhere)
    assert again["parameters"]["parameters"].status == "ok"


def test_under_a_raised_limit_what_ran_out_and_what_was_skipped_for_it_are_tried(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    def statuses(limit: str) -> list[str]:
        grid = ["mechanism=softmax", "seq_len=1024,2048", "meters=[memory]", f"memory_limit={limit}"]
        peaks = by_length(server, grid, "peak_allocated", elsewhere, preflight=False)
        return [metric.status for metric in peaks.values()]

    assert statuses("1MiB") == ["oom", "skipped"]
    assert statuses("1MiB") == ["oom", "skipped"]
    assert statuses("2GiB") == ["ok", "ok"]


@pytest.mark.usefixtures("lawful")
def test_a_search_that_gives_nothing_costs_its_own_metrics_alone(
    server: ForkClient, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.load("meter", "frontier"), "search", lambda self, case, probe: None)
    monkeypatch.setattr(registry.load("meter", "frontier"), "environment", False)
    grid = ["mechanism=none", "seq_len=16", "memory_limit=1GiB", "meters=[flops,frontier]"]
    metrics, _ = measure(server, grid, elsewhere)
    assert metrics["flops"]["flops"].status == "ok"
    assert metrics["frontier"]["longest_in_memory"].status == "error"


class Stubbed(Supervisor):
    """A supervisor without a fork server: `answer` makes the samples of a metric's next process."""

    def __init__(self, folder: Path, answer: Callable[[str], dict[str, Any]], listener: Listener | None = None) -> None:
        store = Store(folder / "results").open_for_writing()
        super().__init__(store, None, Options(folder), listener or Notes())  # type: ignore[arg-type]
        self.answer, self.children_run = answer, 0

    def _outcomes(self, measurements: list[Measurement]) -> dict[str, Outcome]:
        self.children_run += 1
        return {
            each.meter: Outcome("ok", answer=Samples({name: self.answer(name) for name in each.metrics}))
            for each in measurements
        }


def test_a_full_disk_is_no_result_though_an_entry_without_samples_would_fit(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (measurement,) = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[parameters]"]).measurements
    supervisor = Stubbed(elsewhere, lambda name: {"samples": [1.0] * 400})
    write = store_module.write_whole

    def small_alone(path: Path, content: str | bytes) -> None:
        if len(content) > 2000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    with monkeypatch.context() as full:
        full.setattr(store_module, "write_whole", small_alone)
        with pytest.raises(OSError, match="No space left"):
            supervisor.carry_out([measurement])
    assert supervisor.store.read(measurement.file) is None
    supervisor.carry_out(supervisor.pending([measurement]))
    assert {metric.status for metric in results(measurement, elsewhere).values()} == {"ok"}


def test_an_error_of_the_files_that_a_meter_reads_is_its_own(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (measurement,) = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[parameters]"]).measurements

    def load(kind: str, name: str) -> Any:
        raise OSError(errno.ENOSPC, "its own file")

    monkeypatch.setattr(entries.registry, "load", load)
    Stubbed(elsewhere, lambda name: {"samples": [1.0]}).carry_out([measurement])
    metrics = results(measurement, elsewhere).values()
    assert {metric.status for metric in metrics} == {"error"}
    assert all("its own file" in metric.reason for metric in metrics)


@pytest.mark.usefixtures("lawful")
@pytest.mark.parametrize(("spread", "processes", "there"), [(0.001, 5, 0), (0.08, 10, 0), (0.08, 10, 5), (0.08, 10, 7)])
def test_a_wide_ratio_takes_ten_processes_and_the_bar_knows(
    spread: float, processes: int, there: int, elsewhere: Path
) -> None:
    measurements = plan([*FAST, "mechanism=none,mean", "seq_len=16", "meters=[latency_ratio]"]).measurements
    children = iter(range(there * 2, processes * 2))  # of both in turn
    display = Display(Console(file=io.StringIO(), width=200, force_terminal=True))
    supervisor = Stubbed(elsewhere, lambda name: ratio_samples(next(children) // 2, spread), display)
    for each in measurements:  # what an earlier run has left
        entry = new_entry(each, "earlier", "c")
        for number in range(there):
            outcome = Outcome("ok", answer=Samples({"latency_ratio": ratio_samples(number, spread)}))
            entry = with_outcome(entry, each, outcome, {})
        supervisor.store.write(entry)
    pending = supervisor.pending(measurements)
    with display:
        display.start(measurements, pending, supervisor.children(pending))
        (bar,) = display._bar.tasks
        assert bar.total == 2 * (processes - there if there else 5)
        supervisor.carry_out(pending)
        assert bar.completed == bar.total == supervisor.children_run == 2 * (processes - there)
    kept = [supervisor.store.read(each.file) for each in measurements]
    assert [len(entry.processes) for entry in kept if entry] == [processes, processes]
    assert supervisor.children(measurements) == 0 and not supervisor.pending(measurements)


def test_one_training_serves_its_meters_wherever_a_block_ends(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "BLOCK", 4)
    monkeypatch.setattr(supervisor_module, "has_changed", lambda measurement: False)
    asked = ["mechanism=none", "task=recall_ns", "meters=[quality,extrapolation,robustness]", "seed=0,1,2"]
    measurements = plan(asked).measurements
    supervisor = Stubbed(elsewhere, lambda name: {"samples": [1.0, 0.0]})
    monkeypatch.setattr(supervisor, "check_laws", lambda *arguments, **keywords: None)
    supervisor.carry_out(measurements)
    assert len(measurements) == 9 and supervisor.children_run == 3 and not supervisor.pending(measurements)


def test_what_goes_on_with_an_earlier_runs_samples_is_of_the_run_that_ends_it(elsewhere: Path) -> None:
    (measurement,) = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[latency]"]).measurements
    supervisor = Stubbed(elsewhere, lambda name: {"status": "error", "reason": "it went wrong"})
    samples = Outcome("ok", answer=Samples({"latency": {"samples": [1.0, 2.0]}}))
    supervisor.store.write(with_outcome(new_entry(measurement, "earlier", "c"), measurement, samples, {}))
    supervisor.carry_out([measurement])
    entry = supervisor.store.read(measurement.file)
    assert entry is not None and len(entry.processes) == 2 and entry.metrics["latency"].status == "error"
    retried = Options(elsewhere, retry=frozenset({"error"}))
    assert counts(entry, measurement, retried, {supervisor.run_id, "another"}), "else its row would be missing"
    assert not counts(entry, measurement, retried, {"earlier"})


def test_a_failure_counts_the_processes_that_it_ends(elsewhere: Path) -> None:
    (measurement,) = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[latency]"]).measurements
    display = Display(Console(file=io.StringIO(), width=200, force_terminal=True))

    def second_fails(name: str) -> dict[str, Any]:
        failed = {"status": "error", "reason": "it went wrong"}
        return failed if supervisor.children_run == 2 else {"samples": [1.0, 2.0, 3.0]}

    supervisor = Stubbed(elsewhere, second_fails, display)
    with display:
        display.start([measurement], [measurement], supervisor.children([measurement]))
        (bar,) = display._bar.tasks
        supervisor.carry_out([measurement])
        assert supervisor.children_run == 2 and bar.completed == bar.total == 5


def test_the_store_holds_valid_json_alone(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    carry_out(server, ["mechanism=none", "seq_len=16"], elsewhere)
    for path in (elsewhere / "results" / "cases").glob("*/*"):
        entry = json.loads(path.read_text())
        assert path.name == f"{entry['case_id']}-{entry['key']}.json" and path.parent.name == entry["case_id"][:2]
    assert not list((elsewhere / "results" / "locks").glob("*.lock"))


@pytest.mark.usefixtures("lawful")
@pytest.mark.parametrize(("device", "device_memory", "of_process"), [("cuda:0", 2**30, False), ("cpu", None, True)])
def test_a_limit_is_the_processs_or_the_devices(
    device: str, device_memory: int | None, of_process: bool, tmp_path: Path
) -> None:
    """On a stand-in for the fork server, which remembers what it is asked for."""
    requests: list[tuple[MeasureJob, int]] = []

    class RememberingServer:
        def run(self, job: Any, deadline: float, memory: int, waiting: Any) -> Any:
            if isinstance(job, CompareJob):  # the definition's memory is not the mechanism's
                assert memory != 2**30 or not of_process
                return Ending(CompareAnswer(), EXITED, "")
            requests.append((job, memory))
            raise ServerDied("remembered")

    store = Store(tmp_path).open_for_writing()
    supervisor = Supervisor(store, RememberingServer(), Options(tmp_path), Notes())  # type: ignore[arg-type]
    grid = ["mechanism=none", "task=speed", f"device={device}", "meters=[latency]", "memory_limit=1GiB"]
    supervisor.carry_out(plan(grid).measurements[:1])
    job, memory = requests[0]
    assert job.device_memory == device_memory and (memory == 2**30) == of_process and job.compared


@pytest.mark.usefixtures("lawful")
def test_what_is_only_counted_is_not_compared_under_a_limit(tmp_path: Path) -> None:
    """On a stand-in for the fork server: at a million tokens a comparison would run out of memory."""
    kinds: list[str] = []

    class RememberingServer:
        def run(self, job: Any, *_: Any) -> Any:
            kinds.append(type(job).__name__)
            raise ServerDied("remembered")

    grid = ["mechanism=softmax", "pattern=CS", "seq_len=1048576", "meters=[flops]", "memory_limit=1GiB"]
    carry_out(RememberingServer(), grid, tmp_path, preflight=False)
    assert set(kinds) == {"MeasureJob"}
