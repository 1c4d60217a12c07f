"""Every planned case ends as a row with a status, whatever its child does; what is finished is not run again."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cab
from cab.contracts.messages import (
    ChildExit,
    CompareAnswer,
    CompareJob,
    Failure,
    LawsAnswer,
    MeasureAnswer,
    MeasureJob,
    PreflightJob,
    Samples,
)
from cab.contracts.meter import Reading
from cab.errors import UsageError
from cab.planning.plan import plan
from cab.plugins import registry
from cab.runner import locks, verdict_cache
from cab.runner.correctness_gate import CHANGED, Laws
from cab.runner.entries import is_finished, new_entry, with_outcome
from cab.runner.fork_client import Ending, ForkClient, ServerDied
from cab.runner.outcomes import Outcome
from cab.runner.run import execute, preview
from cab.runner.supervisor import Options, Supervisor
from cab.store.store import Store
from cab.terminal.progress import Silent
from cab.worker import jobs

DEADLY = f"{Path(__file__).parents[1] / 'deadly_plugins' / 'deaths.py'}:Deadly"
FAST = ["task=speed", "meters=[memory,flops]", "batch=1", "heads=1", "dim=4", "threads=1"]


class Notes(Silent):
    """Remembers what the supervisor says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ended: list[tuple[str, str, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def done(self, item: Any, status: str, reason: str) -> None:
        self.ended.append((item.meter, status, reason))


def users_file(folder: Path, body: str, patterns: str = "{'NS': 'native'}") -> str:
    """Write a mechanism of a user's with this body, and return its name."""
    lines = "".join(f"    {line}\n" if line else "\n" for line in body.splitlines())
    text = f"import torch\nfrom cab import Mechanism\n\n\nclass Mine(Mechanism):\n    patterns = {patterns}\n\n{lines}"
    (folder / "mine.py").write_text(text)
    return "./mine.py:Mine"


ATTEND = "def attend(self, q, k, v, key_mask=None, query_mask=None):\n"


@pytest.fixture(scope="module")
def server() -> Iterator[ForkClient]:
    with ForkClient() as shared:
        yield shared


@pytest.fixture
def lawful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the laws as held: they have tests of their own."""
    monkeypatch.setattr(verdict_cache, "kept", lambda name: LawsAnswer([], {}, 1))


def carry_out(server: ForkClient, overrides: list[str], folder: Path, **options: Any) -> tuple[dict[str, Any], Notes]:
    """Run with a server that is already there; return meter -> metrics of the last case."""
    notes, store = Notes(), Store(folder / "results").open_for_writing()
    items = plan([*FAST, *overrides]).measurements
    supervisor = Supervisor(store, server, Options(data=folder, **options), notes)
    pending = supervisor.pending(items)
    supervisor.preflight(pending)
    supervisor.carry_out(pending)
    return {item.meter: store.read(item.file).metrics for item in items}, notes  # type: ignore[union-attr]


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
    found, _ = carry_out(server, [f"mechanism={DEADLY}", f"mechanism.how={how}", "seq_len=512"], elsewhere)
    assert {m.status for m in found["memory"].values()} == {status}
    assert all(reason in m.reason for m in found["memory"].values())
    assert found["flops"]["flops"].status == "ok"


def test_a_case_is_compared_once_a_run_and_a_wrong_one_in_every_child(
    server: ForkClient, lawful: None, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    run = server.run

    def spied(job: Any, *rest: Any) -> Any:
        if isinstance(job, MeasureJob):
            asked.append(job.compared)
        return run(job, *rest)

    monkeypatch.setattr(server, "run", spied)
    meters = "meters=[latency,memory]"
    carry_out(server, ["mechanism=softmax", "seq_len=32", meters], elsewhere)
    assert asked == [False, True, True, True, True, True]  # five processes of latency, one of memory
    carry_out(server, ["mechanism=softmax", "seq_len=32", meters], elsewhere, force=True)
    assert asked[6:] == asked[:6]
    found, _ = carry_out(server, [f"mechanism={DEADLY}", "mechanism.how=poison", "seq_len=512", meters], elsewhere)
    assert asked[12:] == [False, False]
    assert {m.status for meter in found.values() for m in meter.values()} == {"wrong"}


def test_an_endless_loop_ends_at_the_deadline(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    found, _ = carry_out(server, [f"mechanism={DEADLY}", "mechanism.how=loop", "seq_len=512", "timeout=3"], elsewhere)
    assert found["memory"]["peak_allocated"].status == "timeout"
    assert "more than 3 s" in found["memory"]["peak_allocated"].reason


def test_a_grandchild_that_escapes_is_killed(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    carry_out(server, [f"mechanism={DEADLY}", "mechanism.how=escape", "seq_len=512"], elsewhere)
    assert not [line for line in _processes() if "cab-escaped-grandchild" in line]


def test_a_memory_limit_ends_as_oom(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    found, _ = carry_out(server, ["mechanism=softmax", "seq_len=8192", "memory_limit=200MiB"], elsewhere)
    assert found["memory"]["peak_allocated"].status == "oom"
    assert found["flops"]["flops"].value == 2 * 8192**2 * 8


def test_a_definition_that_needs_more_than_the_limit_is_not_the_mechanism(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    body = f"{ATTEND}    return v\n\n{ATTEND.replace('attend', 'reference')}    torch.ones(2**27)\n    return v\n"
    grid = [f"mechanism={users_file(elsewhere, body)}", "seq_len=64", "memory_limit=200MiB"]
    found, _ = carry_out(server, [*grid, "meters=[memory]"], elsewhere)
    assert found["memory"]["peak_allocated"].status == "ok"
    wrong = body.replace("torch.ones(2**27)", "v = v + 1")
    grid[0] = f"mechanism={users_file(elsewhere, wrong)}"
    found, _ = carry_out(server, [*grid, "meters=[memory]"], elsewhere)
    assert found["memory"]["peak_allocated"].status == "wrong"


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        ("out + v.mean(2, keepdim=True)", "is not causal at 500 tokens"),
        ("out[:, :, :-1]", r"shape"),
        ("out * float('nan')", "finite"),
    ],
)
def test_a_fault_that_begins_beyond_the_laws_lengths_gives_no_number(
    late: str, reason: str, server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    body = f"{ATTEND}    out = v.cumsum(2)\n    return {late} if v.shape[2] > 400 else out\n"
    name = users_file(elsewhere, body, "{'CS': 'native'}")
    grid = [f"mechanism={name}", "pattern=CS", "seq_len=100,500", "meters=[memory]"]
    store = Store(elsewhere / "results").open_for_writing()
    items = plan([*FAST, *grid]).measurements
    Supervisor(store, server, Options(data=elsewhere), Silent()).carry_out(items)
    found = {item.case.n: store.read(item.file).metrics["peak_allocated"] for item in items}  # type: ignore[union-attr]
    assert found[100].status == "ok" and found[500].status == "wrong"
    assert re.search(reason, found[500].reason)


def test_what_is_longer_than_what_ran_out_of_memory_is_skipped(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    grid = ["mechanism=softmax", "seq_len=64,8192,16384", "memory_limit=200MiB", "meters=[memory]"]
    store = Store(elsewhere / "results").open_for_writing()
    items = plan([*FAST, *grid]).measurements
    for _ in range(2):  # from what was seen, and from what the store remembers
        supervisor = Supervisor(store, server, Options(data=elsewhere, retry=frozenset({"skipped"})), Silent())
        supervisor.carry_out(supervisor.pending(items))
        found = {item.case.n: store.read(item.file).metrics["peak_allocated"] for item in items}  # type: ignore[union-attr]
        assert [found[n].status for n in (64, 8192, 16384)] == ["ok", "oom", "skipped"]
        assert found[16384].reason == "oom at n=8192"


@pytest.mark.usefixtures("lawful")
def test_a_shorter_source_is_not_skipped_for_a_longer_one(tmp_path: Path) -> None:
    """On a stand-in for the fork server, with room for 2^20 pairs of n and m."""

    class Small:
        def run(self, job: Any, *_: Any) -> Ending:
            metrics = {name: {"samples": [1.0]} for name in ("peak_allocated", "peak_resident")}
            fits = job.case.n * job.case.m < 2**20
            answer = MeasureAnswer({"memory": Samples(metrics)}, True, 1.0) if fits else Failure("oom", "out of memory")
            return Ending(answer, ChildExit("ended", 0, None, 0, 1.0), "")

    store = Store(tmp_path).open_for_writing()
    supervisor = Supervisor(store, Small(), Options(tmp_path), Notes())  # type: ignore[arg-type]
    items = plan(
        [*FAST, "mechanism=none", "pattern=NC", "seq_len=64,128", "source_len=16,65536", "meters=[memory]"]
    ).measurements
    supervisor.carry_out(sorted(items, key=lambda item: -item.case.m))
    found = {(i.case.n, i.case.m): store.read(i.file).metrics["peak_allocated"] for i in items}  # type: ignore[union-attr]
    assert {lengths: metric.status for lengths, metric in found.items()} == {
        (64, 65536): "oom", (128, 65536): "skipped", (64, 16): "ok", (128, 16): "ok",
    }  # fmt: skip
    assert found[128, 65536].reason == "oom at n=64 m=65536"


def test_a_constructor_too_large_for_the_machine_costs_its_own_case_alone(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    large = (
        "def __init__(self, slot):\n    super().__init__(slot)\n    torch.empty(2**60 if slot.max_len > 100 else 1)\n"
    )
    name = users_file(elsewhere, f"{large}\n{ATTEND}    return v\n")
    items = plan([*FAST, f"mechanism={name}", "seq_len=64,128", "meters=[parameters]"]).measurements
    store = Store(elsewhere / "results").open_for_writing()
    supervisor = Supervisor(store, server, Options(elsewhere), Notes())
    supervisor.preflight(items)
    supervisor.carry_out(items)
    statuses = [store.read(item.file).metrics["parameters"].status for item in items]  # type: ignore[union-attr]
    assert statuses == ["ok", "oom"]


def test_the_servers_death_costs_nothing_but_time(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    import os
    import signal

    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    found, notes = carry_out(server, ["mechanism=softmax", "seq_len=64"], elsewhere)
    assert found["memory"]["peak_allocated"].status == "ok"
    assert any("fork server died" in note for note in notes.notes)


def test_the_same_command_again_runs_only_what_is_missing(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    first, notes = carry_out(server, ["mechanism=softmax", "seq_len=64", "meters=[memory]"], elsewhere)
    assert [meter for meter, _, _ in notes.ended] == ["memory"]
    again, notes = carry_out(server, ["mechanism=softmax", "seq_len=64", "meters=[memory,flops]"], elsewhere)
    assert [meter for meter, _, _ in notes.ended] == ["flops"]
    assert again["memory"] == first["memory"]
    _, notes = carry_out(server, ["mechanism=softmax", "seq_len=64"], elsewhere, force=True)
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
    carry_out(server, overrides, elsewhere)
    (item,) = plan([*FAST, *overrides]).measurements
    store = Store(elsewhere / "results")
    entry = store.read(item.file)
    assert entry is not None and len(entry.processes) == 5 and entry.metrics["latency"].processes == 5
    kept = entry.processes[:2]
    store.write(replace(entry, processes=kept))
    assert not is_finished(store.read(item.file), item)
    carry_out(server, overrides, elsewhere)
    entry = store.read(item.file)
    assert entry is not None and len(entry.processes) == 5 and entry.processes[:2] == kept


def test_the_readmes_mechanism_is_lawful_and_measured(server: ForkClient, elsewhere: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = [part for part in readme.split("```python\n") if "class MyAttention" in part]
    (elsewhere / "my_attention.py").write_text(block.partition("```")[0])
    found, _ = carry_out(server, ["mechanism=./my_attention.py:MyAttention", "pattern=CS", "seq_len=64"], elsewhere)
    assert found["memory"]["peak_allocated"].status == found["flops"]["flops_counted"].status == "ok"
    assert found["flops"]["flops"].reason == "MyAttention does not define flops"


def test_a_broken_mechanism_gets_no_number(server: ForkClient, elsewhere: Path) -> None:
    pooled = f"{ATTEND}    return v.mean(2, keepdim=True).expand_as(v).contiguous()\n\nreference = attend\n"
    flops = "def flops(self, n, m, backend='eager'):\n    return 0.0\n"
    name = users_file(elsewhere, f"{pooled}\n{flops}", "{'CS': 'native'}")
    found, _ = carry_out(server, [f"mechanism={name}", "pattern=CS", "seq_len=64"], elsewhere)
    for metrics in found.values():
        assert {m.status for m in metrics.values()} == {"wrong"}
        assert all(m.value is None for m in metrics.values())
        assert all(m.reason.startswith("law ") for m in metrics.values())


def test_what_is_unsupported_is_a_row_and_the_rest_is_measured(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    grid = ["mechanism=softmax,none", "seq_len=16", "backend=sdpa", "meters=[flops]"]
    store = Store(elsewhere / "results").open_for_writing()
    items = plan([*FAST, *grid]).measurements
    supervisor = Supervisor(store, server, Options(data=elsewhere), Silent())
    supervisor.preflight(items)
    supervisor.carry_out(items)
    entries = {item.case.mechanism: store.read(item.file).metrics["flops"] for item in items}  # type: ignore[union-attr]
    assert entries["softmax"].status == "ok" and entries["none"].status == "unsupported"
    assert entries["none"].reason == "none has no backend sdpa (it has eager, compile)"


def test_what_does_not_fit_one_length_is_unsupported_there_and_measured_at_another(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    overrides = ["mechanism=agent", "mechanism.agents=49", "seq_len=16,64", "meters=[flops]"]
    store = Store(elsewhere / "results").open_for_writing()
    items = plan([*FAST, *overrides]).measurements
    supervisor = Supervisor(store, server, Options(data=elsewhere), Silent())
    supervisor.preflight(items)
    supervisor.carry_out(items)
    found = {item.case.n: store.read(item.file).metrics["flops"] for item in items}  # type: ignore[union-attr]
    assert found[64].status == "ok" and found[16].status == "unsupported"
    assert found[16].reason == "agents=49: from 1 to the 16 queries of the slot"
    with pytest.raises(UsageError, match="mechanism 'agent': agents=0"):
        carry_out(server, ["mechanism=agent", "mechanism.agents=0"], elsewhere)


def test_nothing_that_can_be_measured_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nothing of this can be measured: speed has no model"):
        plan([*FAST, "mechanism=softmax", "level=model"])


IMPORT = "from cab import Mechanism\n"
MINE = f"{IMPORT}\n\nclass Mine(Mechanism):\n    patterns = {{'NS': 'native'}}\n"
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


@pytest.mark.parametrize(("text", "message"), [("x = 1\n", "must hold one class"), ("def (", "not valid Python")])
def test_a_file_without_the_class_is_named(elsewhere: Path, text: str, message: str) -> None:
    (elsewhere / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        plan([*FAST, "mechanism=./mine.py"])
    (elsewhere / "mine.py").write_text("from cab import Mechanism\nclass Mine(Mechanism):\n    pass\n")
    with pytest.raises(UsageError, match="unknown class in .*; did you mean 'Mine'"):
        plan([*FAST, "mechanism=./mine.py:Mime"])


def test_a_results_folder_that_cannot_be_written_is_named(elsewhere: Path) -> None:
    (elsewhere / "results").write_text("a file")
    with pytest.raises(UsageError, match="results folder .* cannot be written"):
        execute([*FAST, "mechanism=none"], Silent())


def test_a_damaged_file_is_set_aside_and_the_command_goes_on(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    overrides = ["mechanism=none", "seq_len=16", "meters=[flops]"]
    carry_out(server, overrides, elsewhere)
    (path,) = (elsewhere / "results" / "cases").glob("*/*.json")
    path.write_text(path.read_text()[:100])
    found, _ = carry_out(server, overrides, elsewhere)
    assert found["flops"]["flops"].status == "ok"
    assert (elsewhere / "results" / "damaged" / path.name).read_text().startswith('{"schema"')


def test_a_case_that_another_run_has_claimed_is_waited_for(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    (item,) = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[flops]"]).measurements
    lock = elsewhere / "results" / "locks" / f"{item.file}.lock"
    hold = "import sys, time; from pathlib import Path; from cab.runner.locks import claim\n"
    hold += "with claim(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(2)"
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        start = time.monotonic()
        found, _ = carry_out(server, ["mechanism=none", "seq_len=16", "meters=[flops]"], elsewhere)
        assert found["flops"]["flops"].status == "ok" and other.wait() == 0
        assert time.monotonic() - start > 1


def test_work_that_another_run_gives_up_is_done_though_its_round_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The memory of one case is claimed in the first of five rounds of its latency, and free afterwards."""
    items = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[latency,memory]"]).measurements
    supervisor = Supervisor(Store(tmp_path).open_for_writing(), None, Options(tmp_path), Notes())  # type: ignore[arg-type]
    refused, done, real = [], [], locks.claim

    @contextmanager
    def claim(path: Path) -> Iterator[bool]:
        mine = "memory" not in {i.meter for i in items if i.file in path.name} or bool(refused)
        if not mine:
            refused.append(path)
        with real(path):
            yield mine

    def run_child(group: list[Any]) -> None:
        for item in group:
            done.append(item.meter)
            entry = supervisor._kept(item) or new_entry(item, "r", "c")
            given = {name: {"samples": [1.0]} for name in item.metrics}
            supervisor.store.write(with_outcome(entry, item, Outcome("ok", answer=Samples(given)), {}))

    monkeypatch.setattr(locks, "claim", claim)
    monkeypatch.setattr(supervisor, "_run_child", run_child)
    supervisor.carry_out(items)
    assert refused and done.count("latency") == 5 and done.count("memory") == 1


@pytest.mark.parametrize("given", [None, {"number": 3.0}], ids=["nothing", "no samples"])
def test_what_a_meter_returns_is_checked(given: Any) -> None:
    with pytest.raises(TypeError, match="a dictionary for each metric"):
        jobs._samples(given)


@pytest.mark.usefixtures("lawful")
def test_a_meter_that_takes_the_child_with_it_costs_no_other_meter(tmp_path: Path) -> None:
    """On a stand-in for the fork server, whose children die while they count parameters."""

    class Deadly:
        def run(self, job: Any, *_: Any) -> Ending:
            if "parameters" in job.meters:
                return Ending(None, ChildExit("ended", None, 11, 0, 1.0), "")
            counted = {name: {"samples": [1.0]} for name in registry.card("meter", "flops").facts["metrics"]}
            answer = MeasureAnswer({"flops": Samples(counted)}, False, 1.0)
            return Ending(answer, ChildExit("ended", 0, None, 0, 1.0), "")

    store = Store(tmp_path).open_for_writing()
    items = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[flops,parameters]"]).measurements
    Supervisor(store, Deadly(), Options(tmp_path), Notes()).carry_out(items)  # type: ignore[arg-type]
    statuses = {item.meter: {m.status for m in store.read(item.file).metrics.values()} for item in items}  # type: ignore[union-attr]
    assert statuses == {"flops": {"ok"}, "parameters": {"error"}}


@pytest.mark.parametrize("sample", [np.float32(1), float("nan"), float("inf")])
def test_samples_that_no_file_can_hold_are_refused(sample: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="finite numbers of Python"):
        jobs._samples({"number": {"samples": [sample]}})


@pytest.mark.parametrize(
    ("odd", "field"),
    [
        (Reading(1.0, 0.0, float("inf")), "ci_high"),
        (Reading(1.0, count=2.5), "count"),  # type: ignore[arg-type]
        (Reading("fast"), "value"),  # type: ignore[arg-type]
        (Reading(True), "value"),
        (Reading(1.0, converged="yes"), "converged"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_is_no_value_is_an_error_and_the_run_goes_on(
    odd: Reading, field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (item,) = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[parameters]"]).measurements
    meter = registry.load("meter", "parameters")
    monkeypatch.setattr(meter, "reduce", lambda self, name, processes: odd)
    given = {name: {"samples": [1.0]} for name in item.metrics}
    entry = with_outcome(new_entry(item, "r", "c"), item, Outcome("ok", answer=Samples(given)), {})
    Store(tmp_path).write(entry)
    assert all(m.status == "error" and field in m.reason for m in entry.metrics.values())


def test_a_source_that_changes_during_the_run_gives_no_number(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    name = users_file(elsewhere, f"{ATTEND}    return v\n")
    store = Store(elsewhere / "results").open_for_writing()
    (item,) = plan([*FAST, f"mechanism={name}", "seq_len=16", "meters=[parameters]"]).measurements
    users_file(elsewhere, f"{ATTEND}    return 2 * v\n")
    Supervisor(store, server, Options(elsewhere), Notes()).carry_out([item])
    entry = store.read(item.file)
    assert entry is not None and {m.status for m in entry.metrics.values()} == {"error"}
    assert all("changed during the run" in m.reason for m in entry.metrics.values())
    users_file(elsewhere, f"{ATTEND}    return v\n")  # undone
    found, _ = carry_out(server, [f"mechanism={name}", "seq_len=16", "meters=[parameters]"], elsewhere)
    assert found["parameters"]["parameters"].status == "ok"


def test_no_verdict_is_kept_for_a_source_that_changed_meanwhile(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    kept: list[str] = []
    monkeypatch.setattr(verdict_cache, "keep", lambda name, verdict: kept.append(name))
    holds = Outcome("ok", answer=LawsAnswer([], {}, 1))
    name = users_file(elsewhere, f"{ATTEND}    return v\n")
    (item,) = plan([*FAST, f"mechanism={name}", "seq_len=16", "meters=[parameters]"]).measurements

    def edited_meanwhile(item: Any) -> Outcome:
        users_file(elsewhere, f"{ATTEND}    return v.flip(2)\n")
        return holds

    assert Laws(edited_meanwhile).against(item) is CHANGED
    assert Laws(lambda item: holds).against(item) is CHANGED  # edited before: a child may have imported it earlier
    assert kept == []
    users_file(elsewhere, f"{ATTEND}    return v\n")
    assert Laws(lambda item: holds).against(item) is None and len(kept) == 1


def test_laws_that_cannot_be_run_are_not_run_for_every_item(elsewhere: Path) -> None:
    asked: list[Any] = []

    def endless(item: Any) -> Outcome:
        asked.append(item)
        return Outcome("timeout", "took more than 600 s")

    name = users_file(elsewhere, f"{ATTEND}    return v\n")
    items = plan([*FAST, f"mechanism={name}", "seq_len=16,32", "meters=[flops,parameters]"]).measurements
    laws = Laws(endless)
    assert {laws.against(item).status for item in items} == {"timeout"}  # type: ignore[union-attr]
    assert len(items) == 4 and len(asked) == 1


def test_under_a_raised_limit_what_ran_out_and_what_was_skipped_for_it_are_tried(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    grid = ["mechanism=softmax", "seq_len=1024,2048", "meters=[memory]"]
    store = Store(elsewhere / "results").open_for_writing()

    def found(limit: str) -> list[str]:
        items = plan([*FAST, *grid, f"memory_limit={limit}"]).measurements
        supervisor = Supervisor(store, server, Options(data=elsewhere), Silent())
        supervisor.carry_out(supervisor.pending(items))
        return [store.read(item.file).metrics["peak_allocated"].status for item in items]  # type: ignore[union-attr]

    assert found("1MiB") == ["oom", "skipped"]
    assert found("1MiB") == ["oom", "skipped"]
    assert found("2GiB") == ["ok", "ok"]


def test_cases_that_are_refused_alone_are_rows_where_others_are_done_already(elsewhere: Path) -> None:
    asked = [*FAST, "mechanism=linformer", "mechanism.rank=32", "meters=[parameters]"]
    cab.run([*asked, "seq_len=64"], results="results", progress=False)
    rows = cab.run([*asked, "seq_len=64,16"], results="results", progress=False)
    assert dict(zip(rows["n"], rows.status, strict=True)) == {64: "ok", 16: "unsupported"}


@pytest.mark.usefixtures("lawful")
def test_a_search_that_gives_nothing_costs_its_own_metrics_alone(
    server: ForkClient, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.load("meter", "frontier"), "search", lambda self, case, probe: None)
    monkeypatch.setattr(registry.load("meter", "frontier"), "environment", False)
    grid = ["mechanism=none", "seq_len=16", "memory_limit=1GiB", "meters=[flops,frontier]"]
    found, _ = carry_out(server, grid, elsewhere)
    assert found["flops"]["flops"].status == "ok"
    assert found["frontier"]["longest_in_memory"].status == "error"


def test_a_reason_can_be_printed_and_kept() -> None:
    assert Outcome("error", "no file \udc80").reason == "no file ?"


def test_a_preview_measures_nothing_and_counts_what_is_done(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    overrides = [*FAST, "mechanism=softmax,none", "seq_len=16", "meters=[flops]"]
    assert (preview(overrides).done, len(preview(overrides).plan.cases)) == (0, 2)
    assert not (elsewhere / "results").exists()
    carry_out(server, ["mechanism=none", "seq_len=16", "meters=[flops]"], elsewhere)
    assert preview(overrides, elsewhere / "results").done == 1


def test_the_library_gives_tables_and_modules(elsewhere: Path) -> None:
    for _ in range(2):  # a second call finds no function shadowed by a submodule
        rows = cab.run([*FAST, "mechanism=none", "seq_len=16", "meters=[flops]"], progress=False)
        assert set(rows["metric"]) == set(registry.card("meter", "flops").facts["metrics"])
        assert set(rows.status) == {"ok"}
        assert len(cab.load()) == len(rows)
        agent = cab.mechanism("softmax", pattern="CS", heads=4, dim=8, max_len=64)
        assert type(agent).__name__ == "Softmax"
    with pytest.raises(UsageError, match="did you mean 'softmax'"):
        cab.mechanism("sofmax", pattern="CS", heads=4, dim=8, max_len=64)
    with pytest.raises(UsageError, match="unknown hyper-parameter"):
        cab.mechanism("linear", pattern="CS", heads=4, dim=8, max_len=64, chunks=3)
    with pytest.raises(UsageError, match="there are no results in"):
        cab.load("nowhere")


def test_cab_run_needs_no_main_guard(elsewhere: Path) -> None:
    overrides = [*FAST, "mechanism=none", "seq_len=16", "meters=[parameters]"]
    script = f"import cab\nrows = cab.run({overrides}, progress=False)\nprint('ran', len(rows))\n"
    (elsewhere / "script.py").write_text(script)
    # a module of the user's working folder that has the name of one of ours must not stand in for it
    (elsewhere / "mechanisms.py").write_text("raise SystemExit('a foreign file was imported')\n")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=elsewhere)
    assert done.stdout == "ran 2\n", done.stderr


def test_a_dead_server_says_why(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    (elsewhere / "sitecustomize.py").write_text("raise SystemExit('no torch here')\n")
    with ForkClient() as server, pytest.raises(ServerDied):
        server.run(PreflightJob([], "."), 10, None)


def test_the_store_holds_valid_json_alone(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    carry_out(server, ["mechanism=none", "seq_len=16"], elsewhere)
    for path in (elsewhere / "results" / "cases").glob("*/*"):
        entry = json.loads(path.read_text())
        assert path.name == f"{entry['case_id']}-{entry['key']}.json" and path.parent.name == entry["case_id"][:2]
    assert not list((elsewhere / "results" / "locks").glob("*.lock"))


def _processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.usefixtures("lawful")
@pytest.mark.parametrize(("device", "device_memory", "of_process"), [("cuda:0", 2**30, False), ("cpu", None, True)])
def test_a_limit_is_the_processs_or_the_devices(
    device: str, device_memory: int | None, of_process: bool, tmp_path: Path
) -> None:
    """On a stand-in for the fork server, which notes what it is asked for."""
    asked: list[tuple[MeasureJob, int]] = []

    class Stand:
        def run(self, job: Any, deadline: float, memory: int, waiting: Any) -> Any:
            if isinstance(job, CompareJob):  # the definition's memory is not the mechanism's
                assert memory != 2**30 or not of_process
                return Ending(CompareAnswer(), ChildExit("ended", 0, None, 0, 1.0), "")
            asked.append((job, memory))
            raise ServerDied("noted")

    store = Store(tmp_path).open_for_writing()
    supervisor = Supervisor(store, Stand(), Options(tmp_path), Notes())  # type: ignore[arg-type]
    items = plan(
        ["mechanism=none", "task=speed", f"device={device}", "meters=[latency]", "memory_limit=1GiB"]
    ).measurements
    supervisor.carry_out(items[:1])
    job, memory = asked[0]
    assert job.device_memory == device_memory and (memory == 2**30) == of_process and job.compared


@pytest.mark.usefixtures("lawful")
def test_what_is_only_counted_is_not_compared_under_a_limit(tmp_path: Path) -> None:
    """On a stand-in for the fork server: at a million tokens a comparison would run out of memory."""
    kinds: list[str] = []

    class Stand:
        def run(self, job: Any, *_: Any) -> Any:
            kinds.append(type(job).__name__)
            raise ServerDied("noted")

    store = Store(tmp_path).open_for_writing()
    grid = ["mechanism=softmax", "pattern=CS", "seq_len=1048576", "meters=[flops]", "memory_limit=1GiB"]
    Supervisor(store, Stand(), Options(tmp_path), Notes()).carry_out(plan([*FAST, *grid]).measurements)  # type: ignore[arg-type]
    assert set(kinds) == {"MeasureJob"}


def test_on_a_gpu_the_allocator_is_held_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    held: list[tuple[float, int]] = []
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**33))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: held.append((share, device))
    )
    for device in ("cuda", "cuda:1"):  # an index: neither function takes the name alone
        jobs._use_device(device, 2**30)
    jobs._use_device("cuda:2", None)
    jobs._use_device("cpu", None)
    assert held == [(0.125, 0), (0.125, 1)] and current == [0, 1, 2]
