"""Workers are forked from a server that has imported torch and nothing else, and a round has servers of its own."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cab.tracking import processes
from cab.tracking import worker as worker_module
from cab.tracking.cases import tracked_cases
from cab.tracking.lockstep import measure_pair
from cab.tracking.processes import Servers, SideServer, WorkerProcess
from cab.tracking.sides import NoData, Side, installed_side

# writes what its process is like when it is imported, before any operation was executed
WITNESS = """
import json, os, re, sys, threading
from pathlib import Path
from cab import Mechanism

maps = Path("/proc/self/maps").read_text()
(address,) = re.findall(r"^([0-9a-f]+)-.* 00000000 .*libtorch_cpu[.]so$", maps, re.M)[:1]
parent_modules = None
with open({out!r}, "a") as file:
    file.write(json.dumps([os.getpid(), os.getppid(), address, len(os.listdir("/proc/self/task"))]) + chr(10))

class Witness(Mechanism):
    patterns = {{"NS": "native"}}
    paper = "none"

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        {body}
        return q + k + v

    def reference(self, q, k, v):
        return q + k + v
"""


@pytest.fixture(scope="module")
def side() -> Side:
    return installed_side()


def question(folder: Path, body: str = "pass") -> dict[str, Any]:
    file = folder / "witness.py"
    file.write_text(WITNESS.format(out=str(folder / "seen"), body=body))
    overrides = [f"mechanism={file}:Witness", "pattern=NS", "seq_len=16", "batch=1"]
    (case,) = tracked_cases(overrides)
    return case.question


def seen(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder / "seen").read_text().splitlines()]


def test_pairs_of_one_round_are_processes_of_two_servers_and_another_round_has_its_own(
    side: Side, tmp_path: Path
) -> None:
    case = question(tmp_path)
    (tmp_path / "seen").unlink(missing_ok=True)
    for pairs in (2, 1):
        with Servers() as servers:
            for _ in range(pairs):
                measure_pair(side, side, case, tmp_path, False, servers)
    processes_seen, parents, addresses, threads = zip(*seen(tmp_path), strict=True)
    assert len(set(processes_seen)) == 6, "every sample set is of a process of its own"
    first, second = set(parents[:4]), set(parents[4:])
    assert len(first) == len(second) == 2 and not first & second, "base and head have servers, also of the same side"
    assert set(threads) == {1}
    if Path("/proc/sys/kernel/randomize_va_space").read_text().strip() != "0":
        assert len(set(addresses)) == 4, "a server's workers share a layout, and no two servers do"
    assert not any(Path(f"/proc/{process}").exists() for process in {*processes_seen, *parents})


def test_a_server_imports_nothing_of_cab_and_nothing_that_a_worker_allocates_reaches_another(
    side: Side, tmp_path: Path
) -> None:
    server = SideServer(side, tmp_path)
    try:
        first = WorkerProcess(server)
        first.ask({"do": "set up", "case": question(tmp_path)})
        (_, parent, *_), *_ = seen(tmp_path)
        assert parent == server._process.pid
        assert f"{side.sources}/cab" not in Path(f"/proc/{parent}/maps").read_text()
        before = resident(parent)
        first.ask({"do": "calibrate", "seconds": 0.001})
        first.end()
        second = WorkerProcess(server)
        assert resident(parent) <= before + (1 << 20)
        with pytest.raises(NoData, match="AssertionError"):  # it has no case yet
            second.ask({"do": "check"})
        second.end()
    finally:
        server.close()


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_request_that_takes_longer_than_its_budget_is_ended_and_says_so(side: Side, tmp_path: Path) -> None:
    case = question(tmp_path, "import time; time.sleep(100)")
    with Servers() as servers:
        worker = WorkerProcess(servers.start("base", side, tmp_path))
        worker.ask({"do": "set up", "case": case})
        start = time.monotonic()
        with pytest.raises(NoData, match=r"took longer than 0\.2 s: ask for a smaller case"):
            worker.ask({"do": "check"}, 0.2)
        assert time.monotonic() - start < 30
        worker.end()
        # the server goes on
        again = WorkerProcess(servers.start("base", side, tmp_path))
        with pytest.raises(NoData, match="unknown request"):
            again.ask({"do": "set up", "case": question(tmp_path)}) and again.ask({"do": "nosuch"})
        again.end()


def test_a_worker_that_is_killed_and_one_that_exits_say_how(side: Side, tmp_path: Path) -> None:
    with Servers() as servers:
        for body, ended in (("import os; os._exit(7)", "7"), ("import os; os.kill(os.getpid(), 9)", "-9")):
            worker = WorkerProcess(servers.start("head", side, tmp_path))
            worker.ask({"do": "set up", "case": question(tmp_path, body)})
            with pytest.raises(NoData, match=f"its process ended with {ended}: "):
                worker.ask({"do": "check"})
            worker.end()


def test_a_server_that_is_killed_costs_its_case_and_not_the_rest_of_the_round(side: Side, tmp_path: Path) -> None:
    case = question(tmp_path)
    with Servers() as servers:
        killed = servers.start("head", side, tmp_path)
        worker = WorkerProcess(killed)
        os.kill(killed._process.pid, signal.SIGKILL)
        killed._process.wait()
        worker.end()
        assert servers.start("base", side, tmp_path) is servers.start("base", side, tmp_path)
        again = WorkerProcess(servers.start("head", side, tmp_path))
        assert again.ask({"do": "set up", "case": case})
        again.end()


def python(folder: Path, script: str) -> Side:
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return Side("other", "other", python=str(file))


def test_a_python_that_does_not_import_torch_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Servers() as servers:
        side = python(tmp_path, "echo No module named torch >&2; exit 1")
        for _ in range(2):
            with pytest.raises(NoData, match="its process ended with 1: No module named torch"):
                WorkerProcess(servers.start("base", side, tmp_path))
    monkeypatch.setattr(processes, "REQUEST_SECONDS", 0.2)
    with Servers() as servers, pytest.raises(NoData, match=r"its Python took longer than 0\.2 s to import torch"):
        WorkerProcess(servers.start("base", python(tmp_path, "exec sleep 100"), tmp_path))


def test_a_server_whose_answer_is_late_is_replaced_and_no_answer_is_taken_for_anothers(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = tmp_path / "late"
    late.touch()
    (tmp_path / "torch.py").write_text(f"import os, time\nif os.path.exists({str(late)!r}): time.sleep(1)\n")
    slow = Side("slow", "slow", side.python, str(tmp_path))
    monkeypatch.setattr(processes, "REQUEST_SECONDS", 0.3)
    with Servers() as servers:
        first = servers.start("base", slow, tmp_path)
        with pytest.raises(NoData, match=r"longer than 0\.3 s to import torch"):
            WorkerProcess(first)
        assert first.has_ended
        late.unlink()
        monkeypatch.setattr(processes, "REQUEST_SECONDS", 60.0)
        second = servers.start("base", slow, tmp_path)
        assert second is not first
        worker = WorkerProcess(second)
        assert Path(f"/proc/{worker._id}/stat").read_text().split()[3] == str(second._process.pid)
        worker.end()


@pytest.mark.parametrize("process", (0, 1, -1))
def test_a_server_ends_no_process_that_it_did_not_fork(process: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    for name in ("kill", "waitpid"):
        monkeypatch.setattr(os, name, lambda *arguments: calls.append(arguments) or (0, 0))
    with pytest.raises(ValueError, match=f"process {process} is no worker of this server"):
        worker_module._end({7}, process, 0)
    assert not calls


def test_a_server_with_a_second_thread_forks_nothing(side: Side, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()\n"
    )
    threaded = Side("threaded", "threaded", side.python, str(tmp_path))
    with Servers() as servers, pytest.raises(NoData, match="importing torch has started 1 threads"):
        WorkerProcess(servers.start("base", threaded, tmp_path))
