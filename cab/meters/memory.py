"""Memory: what a pass takes beyond what was held before it. Never one number."""

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cab import Meter, Reading
from cab.instruments.allocator import trim
from cab.instruments.timers import collector_at_rest

_CLEAR = Path("/proc/self/clear_refs")


class Memory(Meter):
    """Peaks of one pass after a first one, beyond inputs, parameters and, in `backward`, the graph."""

    metrics = {
        "peak_allocated": ("bytes", False),
        "peak_resident": ("bytes", False),
        "peak_reserved": ("bytes", False),
        "device_wide": ("bytes", False),
        "decode_state": ("bytes", False),
    }
    method = (
        "peak_allocated: most bytes of tensors and workspaces held at once (CPU: the profiler's memory events, exact "
        "from run to run); peak_resident: growth of the process's resident set, reset before the pass (CPU); "
        "peak_reserved: growth of what the caching allocator holds (CUDA); device_wide: growth of what is in use on "
        "the whole device, by whomever (CUDA); decode_state: what is kept after n tokens (pass=decode)"
    )
    version = 1
    environment = True

    def unavailable(self, device: str) -> str | None:
        """Only the CPU and CUDA are known."""
        return None if device.split(":")[0] in ("cpu", "cuda") else f"memory on {device} is not measured"

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Resident memory is the CPU's, what is reserved and what the device holds is CUDA's; a state is decoding's."""
        on_gpu = case.device.startswith("cuda")
        others = {"peak_resident"} if on_gpu else {"peak_reserved", "device_wide"}
        others |= set() if case.pass_ == "decode" else {"decode_state"}
        return {name: about for name, about in self.metrics.items() if name not in others}

    def measure(self, call: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Measure each metric in a pass of its own, after one that has let one-time buffers appear."""
        if not call.has_run:
            call.run()
        call.module.zero_grad()  # a training step leaves gradients: they are its own, not held before the next one
        kept = {"decode_state": {"samples": [state_bytes(call.state)]}} if case.pass_ == "decode" else {}
        if call.device.type == "cuda":
            return {**kept, **_on_cuda(call.run, call.device)}
        resident = resident_growth(call.run)
        call.module.zero_grad()
        return {**kept, "peak_allocated": {"samples": [peak_allocated(call.run)]}, "peak_resident": resident}

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Take the largest: a peak that was seen once was needed."""
        samples = [float(s) for process in processes for s in process["samples"]]
        return Reading(max(samples), count=len(samples), processes=len(processes))


def state_bytes(state: Any) -> int:
    """Add up the tensors of a state, any nesting of them."""
    if isinstance(state, dict):
        return sum(map(state_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(state_bytes, state))
    return int(getattr(state, "nbytes", 0))


def peak_allocated(call: Callable[[], Any]) -> int:
    """Return the most bytes held at once during a call on the CPU, beyond what was held before it.

    The profiler sees every allocation, kernels' workspaces too, which a dispatch mode does not.
    """
    from torch.autograd.profiler import profile  # torch.profiler's takes seconds to start

    with collector_at_rest(), profile(profile_memory=True) as record:
        result = call()  # held until the profiler has stopped, as the caller would hold it
    del result
    assert record.kineto_results is not None
    events = record.kineto_results.events()
    held = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def resident_growth(call: Callable[[], Any]) -> dict[str, Any]:
    """Return the growth of the resident set's peak during a call, as what `measure` gives for a metric."""
    if not os.access(_CLEAR, os.W_OK):
        return {"status": "unsupported", "reason": f"{_CLEAR} cannot be written, so the resident peak cannot be reset"}
    if not trim():
        return {"status": "unsupported", "reason": "the allocator is not glibc's, so free memory cannot be given back"}
    with collector_at_rest():
        _CLEAR.write_text("5")
        before = _peak_resident()
        result = call()
        after = _peak_resident()
    del result
    return {"samples": [after - before]}


def _peak_resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no line VmHWM")


def _on_cuda(call: Callable[[], Any], device: Any) -> dict[str, dict[str, Any]]:
    import torch

    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    free, _ = torch.cuda.mem_get_info(device)
    result = call()
    torch.cuda.synchronize(device)
    left, _ = torch.cuda.mem_get_info(device)  # the caching allocator gives nothing back meanwhile, so this is the peak
    del result
    return {
        "peak_allocated": {"samples": [torch.cuda.max_memory_allocated(device) - allocated]},
        "peak_reserved": {"samples": [torch.cuda.max_memory_reserved(device) - reserved]},
        "device_wide": {"samples": [free - left]},
    }
