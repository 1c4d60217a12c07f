"""Instructions of one call, counted by Valgrind's callgrind in a fresh process.

Only the counted calls are instrumented, which takes a third of the time of instrumenting the start as well. The process
says so itself, by client requests of `<valgrind/callgrind.h>` in a shared object that the C compiler makes. This file
imports nothing of `cab`, so that it can count older revisions.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

CALLS = 3  # that are counted
SECONDS = 1000.0  # that a count may take, where the caller does not say
_REQUESTS = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(void) { CALLGRIND_DUMP_STATS; }
"""
# the first instrumented call is dropped: callgrind translates the code anew, and caches fill
_SCRIPT = """
import ctypes, gc, os, signal
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: who counts may be killed
if os.getppid() != {parent}: raise SystemExit("the process that counts has ended")  # before the line above
{setup}
run(); run()
gc.collect(); gc.disable()
requests = ctypes.CDLL({library!r})
requests.start(); run(); requests.zero()
for _ in range({calls}): run()
requests.dump()
"""


def missing() -> str | None:
    """Say what is not installed, or return None."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (apt install valgrind)"
    return None if _compiler() else "there is no C compiler, which the requests to valgrind need (apt install gcc)"


def count_instructions(setup: str, seconds: float | None = None) -> float:
    """Return the instructions of one call of `run`, which the Python code `setup` defines; the mean of `CALLS` calls.

    It runs in this interpreter's environment, with one thread, and ends with this process. `RuntimeError` says in a
    line what failed, or that it took longer than `seconds` (`SECONDS` by default).
    """
    seconds = SECONDS if seconds is None else seconds
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "requests.c").write_text(_REQUESTS)
        library = str(folder / "requests.so")
        _run([_compiler() or "cc", "-shared", "-fPIC", "-o", library, str(folder / "requests.c")], seconds)
        script = folder / "script.py"
        script.write_text(_SCRIPT.format(setup=setup, library=library, calls=CALLS, parent=os.getpid()))
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/counts"]
        # -P: the folder of the script must not be searched for modules
        _run([*valgrind, sys.executable, "-P", str(script)], seconds)
        return _total(folder / "counts.1") / CALLS


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def _run(command: list[str], seconds: float) -> None:
    # with a random hash seed dictionaries differ from run to run, by 5e-5 of all instructions
    settings = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{Path(command[0]).name} took longer than {seconds:.0f} s") from None
    except FileNotFoundError as error:
        raise RuntimeError(missing() or str(error)) from None
    if done.returncode:
        # valgrind's own lines start with ==PID==
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("==")]
        raise RuntimeError(f"{Path(command[0]).name}: {lines[-1] if lines else f'ended with {done.returncode}'}")


def _total(dump: Path) -> int:
    """Read the sum of a dump of callgrind."""
    if dump.is_file() and (found := re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)):
        return int(found[1])
    raise RuntimeError("callgrind wrote no counts")
