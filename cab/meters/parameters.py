"""Parameters of the attention layer with this mechanism, compared with those of the layer with softmax."""

from collections.abc import Sequence
from typing import Any

from cab import Meter, Reading

LIMIT = 0.1  # the share that CAB allows


class Parameters(Meter):
    """Learnable values of one layer: projections of what the mechanism reads, its own parameters, output projection."""

    metrics = {"parameters": ("parameters", False), "parameters_over_softmax": ("fraction", False)}
    method = (
        "learnable values of one attention layer; over softmax: how many more than the same layer with softmax has, "
        "as a share of that (above CAB's 10 % it is marked, never refused)"
    )
    version = 1

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Count the parameters of the layer with the mechanism under test, and of one with softmax in the same slot."""
        import torch

        from cab.attention.build import build_mechanism
        from cab.attention.layer import AttentionLayer

        mechanism = workload.twin(device="meta").mechanism
        with torch.random.fork_rng(devices=[]):
            ours = _count(AttentionLayer(mechanism))
            softmax = _count(AttentionLayer(build_mechanism(workload.plugins.softmax, {}, mechanism.slot)))
        return {
            "parameters": {"samples": [ours]},
            "parameters_over_softmax": {"samples": [ours / softmax - 1], "softmax": softmax},
        }

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the count; a share above the limit is marked."""
        reading = super().reduce(metric, processes)
        if metric == "parameters_over_softmax" and reading.value > LIMIT:
            return Reading(reading.value, stop_reason=f"more than {LIMIT:.0%} above softmax's layer")
        return reading


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
