"""Instructions that the CPU executes for one pass, counted by callgrind: almost no noise, but slow."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from cab import Meter

CALLS = 3  # that are counted; the sample is their mean


class Instructions(Meter):
    """Instructions of one pass (decoding: of one token), of Python and of the kernels, in a process under Valgrind."""

    metrics = {"instructions": ("instructions", False)}
    method = (
        "counted by Valgrind's callgrind through torch.utils.benchmark, mean of 3 calls, one thread; includes "
        "Python's own; Valgrind emulates an older CPU, so that other kernels may run than outside of it"
    )
    version = 1
    environment = True

    def unavailable(self, device: str) -> str | None:
        """Valgrind must be installed, and the device be the CPU."""
        if device != "cpu":
            return f"Valgrind counts the CPU's instructions, not those of {device}"
        return None if shutil.which("valgrind") else "valgrind is not installed (apt install valgrind)"

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Set up the case again in a process under callgrind, and count the instructions of its calls."""
        from torch.utils.benchmark import Timer

        # PyTorch starts the first `python` of the PATH, which must be this one
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        folder = str(workload.plugins.folder)
        timer = Timer(
            "run()",
            f"from cab.worker.jobs import again\nrun = again({case.question()!r}, {folder!r})\nrun()",
            num_threads=1,
        )
        try:
            stats = timer.collect_callgrind(CALLS, repeats=None, collect_baseline=False, retain_out_file=False)
        except OSError as error:  # only the last line of its message says what went wrong
            raise RuntimeError(f"callgrind: {str(error).strip().splitlines()[-1]}") from error
        instructions = stats.counts(denoise=True) / CALLS / workload.calls
        return {"instructions": {"samples": [instructions], "calls": CALLS}}
