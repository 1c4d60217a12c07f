"""Instructions: what the CPU executes for one pass, counted by callgrind. Near to no noise, and slow."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from cab import Meter

CALLS = 3  # counted; their mean is the sample


class Instructions(Meter):
    """Instructions of one pass (decoding: of one token), Python's and the kernels', in a process under Valgrind."""

    metrics = {"instructions": ("instructions", False)}
    method = (
        "counted by Valgrind's callgrind through torch.utils.benchmark, mean of 3 calls, one thread; Python's own are "
        "in it; Valgrind offers an older CPU's instructions, so other kernels may run than outside of it"
    )
    version = 1
    environment = True

    def unavailable(self, device: str) -> str | None:
        """Valgrind runs on the CPU, where it is installed."""
        if device != "cpu":
            return f"Valgrind counts the CPU's instructions, not those of {device}"
        return None if shutil.which("valgrind") else "valgrind is not installed (apt install valgrind)"

    def measure(self, call: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Set the case up again in a process under callgrind, and count its calls."""
        from torch.utils.benchmark import Timer

        # PyTorch starts `python`, whichever comes first: this one must
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        folder = str(call.plugins.folder)
        timer = Timer(
            "run()",
            f"from cab.worker.jobs import again\nrun = again({case.question()!r}, {folder!r})\nrun()",
            num_threads=1,
        )
        try:
            found = timer.collect_callgrind(CALLS, repeats=None, collect_baseline=False, retain_out_file=False)
        except OSError as error:  # its first line says nothing, its last one what went wrong
            raise RuntimeError(f"callgrind: {str(error).strip().splitlines()[-1]}") from error
        counted = found.counts(denoise=True) / CALLS / call.calls
        return {"instructions": {"samples": [counted], "calls": CALLS}}
