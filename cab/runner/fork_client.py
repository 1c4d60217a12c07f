"""The client of the fork server: it starts the server, sends it jobs and notices its death."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cab.contracts.messages import ChildExit, Job, Request, decode, encode
from cab.paths import PACKAGE

TICK = 0.2  # seconds between two calls of `waiting`


class ServerDied(Exception):
    """The fork server ended by itself; the message is the end of what it printed."""


@dataclass(frozen=True)
class Ending:
    """How a child ended, and what it left."""

    answer: Any  # of its kind of job, or a `Failure`; None where it died before
    exit: ChildExit
    output: str  # what it printed


class ForkClient:
    """Runs jobs through a fork server, which is started when first needed and started anew after its death."""

    def __init__(self, eager: Collection[str] | None = None, few: bool = False) -> None:
        """`eager` and `few` say what the server need not prepare: see `cab.worker.fork_server.main`."""
        self._options = {"eager": eager if eager is None else list(eager), "few": few}
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="cab-"))
        self._jobs = 0

    def __enter__(self) -> "ForkClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The server's process, once started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server in a session of its own, so that Ctrl-C reaches the command alone."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(PACKAGE.parent)) if p)
        self._log = open(self._folder / "server.log", "wb")
        variables = {
            "PYTHONPATH": path,
            "OPENBLAS_NUM_THREADS": "1",  # a server with more than one thread cannot fork
            "KINETO_LOG_LEVEL": "99",  # the profiler says nothing
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # a GPU's number is the one that nvidia-smi gives it
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # an import that asks for GPUs does not start CUDA
        }
        # -P: a file of the user's working folder must not stand in for a module of the same name
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cab.worker.fork_server", str(theirs.fileno()), json.dumps(self._options)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        theirs.close()
        self._socket, self._buffer = ours, b""
        self._ready = False

    def run(
        self,
        job: Job,
        deadline: float,
        memory: int | None,
        waiting: Callable[[str], None] = lambda progress: None,
    ) -> Ending:
        """Run a job in a child of its own, within `deadline` seconds and `memory` bytes (None: no limit).

        `waiting` is called with the job's latest progress while it runs. `ServerDied` where the server did not survive.
        """
        self.start()
        self._jobs += 1
        folder = self._folder / str(self._jobs)
        folder.mkdir()
        answer, output, progress = (str(folder / name) for name in ("answer", "output", "progress"))
        try:
            if not self._ready:
                self._receive(lambda: waiting(""))
                self._ready = True
            self._send(Request(job, deadline, memory, answer, output, progress, folder=os.getcwd()))
            child_exit: ChildExit = self._receive(lambda: waiting(_read(progress)))
            return Ending(_answer(answer), child_exit, _read(output))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End the server and with it whatever it runs."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self) -> None:
        if self._process is None:
            return
        self._socket.close()  # the server kills its child and ends
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._process = None

    def _send(self, request: Request) -> None:
        try:
            self._socket.sendall(encode(request).encode() + b"\n")
        except OSError as error:
            self._died(error)

    def _receive(self, waiting: Callable[[], None]) -> Any:
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._socket], [], [], TICK)
            if not ready:
                waiting()
                continue
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                self._died(error)
            if not data:
                self._died(None)
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return decode(line)

    def _died(self, cause: BaseException | None) -> NoReturn:
        self._stop()
        raise ServerDied(_read(str(self._folder / "server.log"))[-2000:]) from cause


def _read(path: str) -> str:
    """Return a file's text, or "" where there is none yet."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _answer(path: str) -> Any:
    """Return the message in a file, or None where there is none."""
    try:
        return decode(Path(path).read_bytes())
    except (OSError, ValueError):
        return None


def describe(child_exit: ChildExit) -> str:
    """Say in words how a child that left no answer ended."""
    if child_exit.signal is not None:
        return f"killed by {signal.Signals(child_exit.signal).name}"
    return f"exited with code {child_exit.exit} and left no result"
