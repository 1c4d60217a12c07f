"""FLOPs: executed (closed form), counted, and needed at least; and the bytes that the same pass moves."""

from collections.abc import Callable
from typing import Any

from cab import Meter

_META_ERRORS = (NotImplementedError, RuntimeError)  # what an operation without a meta kernel raises


class Flops(Meter):
    """Floating-point operations and bytes of one pass (decoding: of one token) on the whole batch."""

    metrics = {
        "flops": ("FLOP", False),
        "flops_counted": ("FLOP", False),
        "flops_needed": ("FLOP", False),
        "bytes_needed": ("bytes", False),
        "bytes_moved": ("bytes", False),
        "intensity": ("FLOP/byte", None),
    }
    method = (
        "2 per multiply-add of a product or convolution, 5 N log2 N per FFT, nothing elementwise; flops: closed form, "
        "as the backend executes it; flops_counted: PyTorch's counter on eager attend, on meta tensors; flops_needed: "
        "the least that the definition takes; bytes_needed: inputs, parameters and results, once; bytes_moved: what "
        "each operation of eager attend reads and writes; intensity: FLOPs needed (else counted) by bytes needed"
    )
    version = 2  # of bytes_needed, all slices of an argument count
    needs_method = {"flops": "flops", "flops_needed": "flops"}

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Closed forms are for the forward pass of one mechanism or layer; all other passes are counted only."""
        if case.pass_ == "forward" and case.level != "model":
            return self.metrics
        return {name: metric for name, metric in self.metrics.items() if name not in ("flops", "flops_needed")}

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Evaluate the closed forms and count; a mechanism without closed forms is counted only."""
        results = _count(workload, case)
        flops_needed = results["flops_counted"]["samples"][0]
        if "flops" in self.applies(case):
            mechanism = workload.twin(device="meta").mechanism
            projections = layer_flops(mechanism, case)
            if mechanism.defines("flops"):
                executed = case.batch * (mechanism.flops(case.n, case.m, case.backend) + projections)
                flops_needed = case.batch * (mechanism.flops_needed(case.n, case.m) + projections)
                results |= {"flops": {"samples": [executed]}, "flops_needed": {"samples": [flops_needed]}}
        bytes_needed = max(results["bytes_needed"]["samples"][0], 1)
        return results | {"intensity": {"samples": [flops_needed / bytes_needed]}}


def layer_flops(mechanism: Any, case: Any) -> float:
    """Return the FLOPs of the projections around the mechanism for one sequence; 0 at the level `attend`."""
    if case.level != "layer":
        return 0.0
    slot = mechanism.slot
    sizes = {"q": case.n * slot.heads * slot.dim, "k": case.m * slot.key_heads * slot.dim}
    sizes["v"] = case.m * slot.key_heads * slot.values
    outputs = sum(sizes[name] for name in mechanism.reads) + case.n * slot.heads * slot.values
    return float(2 * slot.tokens * outputs)


def _count(workload: Any, case: Any) -> dict[str, dict[str, Any]]:
    # The optimiser has elementwise operations only, which count nothing. So the FLOPs of a training step are those of
    # its forward and backward pass.
    changes = {"backend": "eager", "pass_": "forward_backward" if case.pass_ == "train" else case.pass_}
    try:
        twin, device = workload.twin(**changes, device="meta"), "meta"
        counts = _count_flops_and_bytes(twin.run)
    except _META_ERRORS:  # a shape depends on values, which meta tensors do not have: count on the case's own device
        twin, device = workload.twin(**changes, device=case.device), case.device
        counts = _count_flops_and_bytes(twin.run)
    return {name: {"samples": [count / twin.calls], "on": device} for name, count in counts.items()}


def _count_flops_and_bytes(run: Callable[[], Any]) -> dict[str, float]:
    """Count the floating-point operations and the bytes of one call, in the same run."""
    from cab.instruments.flop_counter import count_flops
    from cab.instruments.memory_traffic import TrafficCounter

    results: list[Any] = []
    with TrafficCounter() as traffic:
        flops = count_flops(lambda: results.append(run()))
    return {"flops_counted": flops, "bytes_needed": float(traffic.needed(results)), "bytes_moved": float(traffic.moved)}
