"""The fork server: it has torch loaded and forks one child for each job, so that a case's death is only its own.

It executes no tensor operation (one parallel operation before a fork hangs every child), never touches a GPU, and
checks before each fork that it has one thread. It is the subreaper of its children and ends when its socket closes.
Started as `python -m cab.worker.fork_server FD OPTIONS`; `cab.runner.fork_client` is the other end.
"""

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from cab.contracts.messages import ChildExit, Ready, Request, decode, encode

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def main(connection: socket.socket, eager: Collection[str] | None = None, few: bool = False) -> None:
    """Serve requests, one line of JSON each, until the socket closes.

    `eager` names the only mechanisms that will be asked for, where no job compiles or trains: nothing else is then
    imported beforehand. `few` says that the jobs are too few for huge pages to pay.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command, which then closes the socket
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # each child would import these anew: a first optimiser step alone costs 0.7 s of imports
    if eager is None:
        import torch._dynamo
    import torch.profiler
    import torch.utils.flop_counter  # noqa: F401

    from cab.worker.huge_pages import collapse

    _warm_up(eager)
    gc.collect()
    gc.freeze()  # the collector of a child then does not write to the shared pages
    if not few:
        collapse()
    _send(Ready(), connection)
    lines = connection.makefile("rb")
    while line := lines.readline():
        _send(_serve(decode(line), connection), connection)


def _send(message: Ready | ChildExit, connection: socket.socket) -> None:
    connection.sendall(encode(message).encode() + b"\n")


def _warm_up(mechanisms: Collection[str] | None) -> None:
    """Import what every child needs and read every card once, so that a child finds them in memory.

    Of the mechanisms all are imported, or those that are named.
    """
    import cab.attention.build
    import cab.conformance
    import cab.training
    import cab.worker.jobs
    import cab.worker.workload  # noqa: F401
    from cab.errors import UsageError
    from cab.paths import PACKAGE, beside
    from cab.plugins import registry
    from cab.plugins.cards import Card

    registry.cards_of("task")
    # ours alone, which define classes and run nothing; what others wrote is imported in the child
    for kind in ("meter", "mechanism"):
        for name, card in registry.cards_of(kind).items():
            if kind == "mechanism" and mechanisms is not None and name not in mechanisms:
                continue
            if isinstance(card, Card) and Path(card.path).is_relative_to(
                PACKAGE / "meters" if kind == "meter" else beside("mechanisms")
            ):
                try:
                    registry.load(kind, name)
                except UsageError:  # one that does not import is named in the preflight of who asks for it
                    continue
    registry.load("task", "speed")


def _serve(request: Request, connection: socket.socket) -> ChildExit:
    """Fork a child for the request's job, and return how it ended. Exits where the socket closes meanwhile."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"the fork server has {threads} threads: a child could hang")
    start, server = time.monotonic(), os.getpid()
    child = os.fork()
    if child == 0:
        _run_child(request, connection, server)
    why = _wait(child, connection, start + request.deadline)
    if why != "ended":
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    _kill_descendants()
    if why == "closed":
        sys.exit(0)
    return ChildExit(
        why,
        exit=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        peak=usage.ru_maxrss * 1024,
        seconds=time.monotonic() - start,
    )


def _wait(child: int, connection: socket.socket, deadline: float) -> str:
    """Wait for a child; return `ended`, `deadline` or, where the other end of the socket is gone, `closed`."""
    ended = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(connection, select.POLLRDHUP)
        while (remaining := deadline - time.monotonic()) > 0:
            ready = {descriptor for descriptor, _ in poll.poll(min(remaining, 60.0) * 1000)}
            if ended in ready:
                return "ended"
            if connection.fileno() in ready:
                return "closed"
        return "deadline"
    finally:
        os.close(ended)


def _kill_descendants() -> None:
    """Kill the processes that a case started: as orphans they are the subreaper's children, whatever their session."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for entry in os.listdir("/proc"):
            if entry.isdigit() and _parent(entry) == os.getpid():
                try:
                    os.kill(int(entry), signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.002)


def _parent(pid: str) -> int:
    try:
        # the command's name may hold spaces and parentheses; the fields after the last parenthesis do not
        return int(Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def _run_child(request: Request, connection: socket.socket, server: int) -> NoReturn:
    """Do the request's job in the forked process, and exit."""
    code = 1
    try:
        connection.close()
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != server:  # the server died before the line above, which then does nothing
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        output = os.open(request.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request.folder)  # a mechanism may be a file whose path begins there
        if request.memory is not None:
            limit = _data_bytes() + request.memory
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        from cab.worker import jobs

        jobs.serve(request)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _data_bytes() -> int:
    """Return the bytes that count towards RLIMIT_DATA now: limits are relative to them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), **json.loads(sys.argv[2]))
