"""Memory that a pass takes beyond what was held before it: several metrics, none of which stands for the others."""

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cab import Meter, Reading
from cab.instruments.allocator import trim
from cab.instruments.timers import garbage_collector_off

_CLEAR = Path("/proc/self/clear_refs")


class Memory(Meter):
    """Peak memory of one pass after a first one, beyond inputs, parameters and, in `backward`, the graph."""

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
        "the whole device, other programs included (CUDA); decode_state: the state after n tokens (pass=decode)"
    )
    version = 1
    environment = True

    def unavailable(self, device: str) -> str | None:
        """Memory is measured on the CPU and CUDA only."""
        return None if device.split(":")[0] in ("cpu", "cuda") else f"memory on {device} is not measured"

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Leave out the metrics of the other kind of device, and `decode_state` where nothing is decoded."""
        on_gpu = case.device.startswith("cuda")
        left_out = {"peak_resident"} if on_gpu else {"peak_reserved", "device_wide"}
        left_out |= set() if case.pass_ == "decode" else {"decode_state"}
        return {name: metric for name, metric in self.metrics.items() if name not in left_out}

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Measure each metric in a pass of its own, after a first pass that allocates one-time buffers."""
        if not workload.has_run:
            workload.run()
        workload.module.zero_grad()  # gradients that a training step leaves behind are part of the next step's peak
        state = {"decode_state": {"samples": [state_bytes(workload.state)]}} if case.pass_ == "decode" else {}
        if workload.device.type == "cuda":
            return {**state, **_growth_on_cuda(workload.run, workload.device)}
        resident = resident_growth(workload.run)
        workload.module.zero_grad()
        return {**state, "peak_allocated": {"samples": [peak_allocated(workload.run)]}, "peak_resident": resident}

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the largest sample: memory that one pass needed, the pass needs."""
        samples = [float(s) for process in processes for s in process["samples"]]
        return Reading(max(samples), count=len(samples), processes=len(processes))


def state_bytes(state: Any) -> int:
    """Return the bytes of the tensors of a state, any nesting of them."""
    if isinstance(state, dict):
        return sum(map(state_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(state_bytes, state))
    return int(getattr(state, "nbytes", 0))


def peak_allocated(call: Callable[[], Any]) -> int:
    """Return the most bytes allocated at once during a call on the CPU, beyond those allocated before it.

    By the profiler, which sees every allocation. A dispatch mode would miss the workspaces of kernels.
    """
    from torch.autograd.profiler import profile  # torch.profiler's takes seconds to start

    with garbage_collector_off(), profile(profile_memory=True) as record:
        result = call()  # kept until the profiler has stopped, because a caller would keep it too
    del result
    assert record.kineto_results is not None
    events = record.kineto_results.events()
    allocated = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def resident_growth(call: Callable[[], Any]) -> dict[str, Any]:
    """Return how much the peak of the resident set grows during a call, in the form that `measure` returns.

    The status is `unsupported` where the peak cannot be reset, or free memory cannot be returned to the kernel.
    """
    if not os.access(_CLEAR, os.W_OK):
        return {"status": "unsupported", "reason": f"{_CLEAR} cannot be written, so the resident peak cannot be reset"}
    if not trim():
        return {"status": "unsupported", "reason": "the allocator is not glibc's, so free memory cannot be given back"}
    with garbage_collector_off():
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


def _growth_on_cuda(call: Callable[[], Any], device: Any) -> dict[str, dict[str, Any]]:
    import torch

    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    free_before, _ = torch.cuda.mem_get_info(device)
    result = call()
    torch.cuda.synchronize(device)
    free_after, _ = torch.cuda.mem_get_info(device)  # the caching allocator has returned nothing, so this is the peak
    del result
    return {
        "peak_allocated": {"samples": [torch.cuda.max_memory_allocated(device) - allocated]},
        "peak_reserved": {"samples": [torch.cuda.max_memory_reserved(device) - reserved]},
        "device_wide": {"samples": [free_before - free_after]},
    }
