"""Instructions that the CPU executes for one pass, counted by callgrind: two counts differ by less than 1e-4."""

from typing import Any

from cab import Meter
from cab.instruments.callgrind import CALLS, count_instructions, missing


class Instructions(Meter):
    """Instructions of one pass (decoding: of one token), of Python and of the kernels, in a process under Valgrind."""

    metrics = {"instructions": ("instructions", False)}
    method = (
        "counted by Valgrind's callgrind, mean of 3 calls after dropped ones, one thread; includes Python's own; "
        "Valgrind emulates an older CPU, so that other kernels may run than outside of it"
    )
    version = 2
    environment = True

    def unavailable(self, device: str) -> str | None:
        """Valgrind and a C compiler must be installed, and the device be the CPU."""
        if device != "cpu":
            return f"Valgrind counts the CPU's instructions, not those of {device}"
        return missing()

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Set up the case again in a process under callgrind, and count the instructions of its calls."""
        folder = str(workload.plugins.folder)
        setup = f"from cab.worker.jobs import again\nrun = again({case.question()!r}, {folder!r})"
        return {"instructions": {"samples": [count_instructions(setup) / workload.calls], "calls": CALLS}}
