"""FLOPs: executed by closed form, counted, and needed at least; and the bytes that go with them."""

from collections.abc import Callable
from typing import Any

from cab import Meter

_OFF_META = (NotImplementedError, RuntimeError)  # what an operation without a meta kernel raises


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
    version = 1

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Closed forms are of the forward pass of one mechanism or layer; everything else is counted only."""
        if case.pass_ == "forward" and case.level != "model":
            return self.metrics
        return {name: about for name, about in self.metrics.items() if name not in ("flops", "flops_needed")}

    def measure(self, call: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Compute and count; a mechanism without a closed form has the counted metric alone."""
        found = _counted(call, case)
        least = found["flops_counted"]["samples"][0]
        if "flops" in self.applies(case):
            mechanism = call.twin(device="meta").mechanism
            around = layer_flops(mechanism, case)
            if mechanism.defines("flops"):
                executed = case.batch * (mechanism.flops(case.n, case.m, case.backend) + around)
                needed = case.batch * (mechanism.flops_needed(case.n, case.m) + around)
                found |= {"flops": {"samples": [executed]}, "flops_needed": {"samples": [needed]}}
                least = needed
            else:
                why = {"status": "unsupported", "reason": f"{type(mechanism).__name__} does not define flops"}
                found |= {"flops": why, "flops_needed": why}
        return found | {"intensity": {"samples": [least / max(found["bytes_needed"]["samples"][0], 1)]}}


def layer_flops(mechanism: Any, case: Any) -> float:
    """Count the projections around the mechanism for one sequence; 0 at the level `attend`."""
    if case.level != "layer":
        return 0.0
    slot = mechanism.slot
    sizes = {"q": case.n * slot.heads * slot.dim, "k": case.m * slot.key_heads * slot.dim}
    sizes["v"] = case.m * slot.key_heads * slot.values
    outputs = sum(sizes[name] for name in mechanism.reads) + case.n * slot.heads * slot.values
    return float(2 * slot.tokens * outputs)


def _counted(call: Any, case: Any) -> dict[str, dict[str, Any]]:
    # the counter sees products alone, so a step counts as its gradients do, without the optimiser
    changes = {"backend": "eager", "pass_": "forward_backward" if case.pass_ == "train" else case.pass_}
    try:
        workload, on = call.twin(**changes, device="meta"), "meta"
        figures = _followed(workload.run)
    except _OFF_META:  # the shape of something depends on values, which meta tensors lack: the count is the same
        workload, on = call.twin(**changes, device=case.device), case.device
        figures = _followed(workload.run)
    return {name: {"samples": [figure / workload.calls], "on": on} for name, figure in figures.items()}


def _followed(run: Callable[[], Any]) -> dict[str, float]:
    """Count the operations and the bytes of one call, in one go."""
    from cab.instruments.flop_counter import count_flops
    from cab.instruments.memory_traffic import Traffic

    results: list[Any] = []
    with Traffic() as seen:
        flops = count_flops(lambda: results.append(run()))
    return {"flops_counted": flops, "bytes_needed": float(seen.needed(results)), "bytes_moved": float(seen.moved)}
