"""Fresh worker processes: each side's fork server has imported torch, and forks a worker for each case.

To import torch takes two thirds of what a process needs before its first sample. A server lasts for one round of pairs,
one for each case. So the pairs of a case still come from processes that were started anew, each with memory laid out at
random, and what two workers share is the import alone: the server executes no operation and imports nothing of `cab`.
"""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any

from cab.tracking.sides import NoData, Side

WORKER = Path(__file__).with_name("worker.py")
REQUEST_SECONDS = 120.0  # most that one request may take
ENDING_SECONDS = 5  # for a worker that has closed its answers, until it is killed


class SideServer:
    """The fork server of one side of a pair."""

    def __init__(self, side: Side, side_cache: Path) -> None:
        self._errors = TemporaryFile()
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.settimeout(REQUEST_SECONDS)
        side_cache.mkdir(parents=True, exist_ok=True)
        try:
            self._process = subprocess.Popen(
                [side.python, "-P", str(WORKER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                env=side.environment(side_cache),
                cwd=side_cache,
                pass_fds=[theirs.fileno()],
            )
        except OSError as error:
            self._errors.close()
            self._connection.close()
            raise NoData(f"{side.python} does not start: {error.strerror}") from None
        finally:
            theirs.close()

    def fork(self, descriptors: list[int]) -> int:
        """Fork a worker with these descriptors as standard input, output and error; return its process id."""
        try:
            socket.send_fds(self._connection, [b"fork"], descriptors)
        except OSError:
            raise NoData(_why(self._process.wait(), self._errors)) from None
        return self._answer("its Python took longer than {:g} s to import torch")

    def end(self, worker: int, seconds: int = 0) -> int:
        """Kill a worker that has not ended by itself in `seconds`; return its exit code, as `subprocess` has it."""
        try:
            self._connection.send(f"end {worker} {seconds}".encode())
        except OSError:
            raise NoData(_why(self._process.wait(), self._errors)) from None
        return self._answer("its worker could not be ended in {:g} s")

    @property
    def has_ended(self) -> bool:
        """Whether the server's process has ended by itself or was killed."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the server."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _answer(self, too_late: str) -> int:
        try:
            text = self._connection.recv(64).decode()
        except TimeoutError:
            # a late answer would be taken for the next request's, an exit code for a worker's id
            self._process.kill()
            self._process.wait()
            raise NoData(too_late.format(self._connection.gettimeout())) from None
        except ConnectionResetError:
            text = ""
        if not text:
            raise NoData(_why(self._process.wait(), self._errors))
        return int(text)


class WorkerProcess:
    """A live worker of one side, with one case."""

    def __init__(self, server: SideServer) -> None:
        self._server, self._errors = server, TemporaryFile()
        (requests, to_worker), (from_worker, answers) = os.pipe(), os.pipe()
        self._requests, self._answers = os.fdopen(to_worker, "w"), os.fdopen(from_worker)
        self._id: int | None = None
        try:
            self._id = server.fork([requests, answers, self._errors.fileno()])
        except NoData:
            self.end()
            raise
        finally:
            os.close(requests)
            os.close(answers)

    def send(self, request: Mapping[str, Any]) -> None:
        """Ask for something, without waiting for the answer."""
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        except BrokenPipeError:
            raise NoData(self._why_it_ended()) from None

    def receive(self, seconds: float = REQUEST_SECONDS) -> Any:
        """Wait for the answer; `NoData` where there is an error instead, or none in time."""
        too_long = threading.Event()

        def give_up() -> None:
            too_long.set()
            with suppress(NoData):  # the server is gone, and its workers' input with it
                self._end_process()

        alarm = threading.Timer(seconds, give_up)
        alarm.start()
        try:
            line = self._answers.readline()
        finally:
            alarm.cancel()
        if not line:
            if too_long.is_set():
                raise NoData(f"a request took longer than {seconds:g} s: ask for a smaller case")
            raise NoData(self._why_it_ended())
        reply = json.loads(line)
        if "error" in reply:
            raise NoData(reply["error"])
        return reply["answer"]

    def ask(self, request: Mapping[str, Any], seconds: float = REQUEST_SECONDS) -> Any:
        """Ask and wait."""
        self.send(request)
        return self.receive(seconds)

    def end(self) -> None:
        """End the process."""
        with suppress(NoData):
            self._end_process()
        for stream in (self._requests, self._answers):
            with suppress(BrokenPipeError):
                stream.close()
        self._errors.close()

    def _end_process(self, seconds: int = 0) -> int | None:
        """Return the exit code; None where the process was ended before."""
        worker, self._id = self._id, None
        return None if worker is None else self._server.end(worker, seconds)

    def _why_it_ended(self) -> str:
        return _why(self._end_process(ENDING_SECONDS), self._errors)


class Servers:
    """The fork servers of one round: one for each side and its place in a pair, started when it is first asked for.

    A server whose process has ended is replaced, so that it costs the case that it had and not the rest of the round.
    """

    def __init__(self) -> None:
        self._started: dict[tuple[str, str, str | None], SideServer] = {}

    def __enter__(self) -> "Servers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for server in self._started.values():
            server.close()

    def start(self, name: str, side: Side, side_cache: Path) -> SideServer:
        """Return the server of a side at a place, "base" or "head"; the same side at both places has two."""
        if side.unbuilt:
            raise NoData(side.unbuilt)
        key = (name, side.python, side.sources)
        if key in self._started and self._started[key].has_ended:
            self._started.pop(key).close()
        if key not in self._started:
            self._started[key] = SideServer(side, side_cache)
        return self._started[key]


def _why(code: int | None, errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f"its process ended with {code}: {lines[-1][:300] if lines else 'it said nothing'}"
