"""Parameters: of the attention layer with this mechanism, beside the layer with softmax."""

from collections.abc import Sequence
from typing import Any

from cab import Meter, Reading

LIMIT = 0.1  # CAB's


class Parameters(Meter):
    """Learnable values of one layer: the projections that the mechanism reads, its own parameters, the output's."""

    metrics = {"parameters": ("parameters", False), "parameters_over_softmax": ("fraction", False)}
    method = (
        "learnable values of one attention layer; over softmax: how many more than the same layer with softmax has, "
        "as a share of that (above CAB's 10 % it is marked, never refused)"
    )
    version = 1

    def measure(self, call: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Count the layer around the mechanism under test, and one around softmax in the same slot."""
        import torch

        from cab.attention.build import build_mechanism
        from cab.attention.layer import AttentionLayer

        mechanism = call.twin(device="meta").mechanism
        with torch.random.fork_rng(devices=[]):
            ours = _count(AttentionLayer(mechanism))
            softmax = _count(AttentionLayer(build_mechanism(call.plugins.softmax, {}, mechanism.slot)))
        return {
            "parameters": {"samples": [ours]},
            "parameters_over_softmax": {"samples": [ours / softmax - 1], "softmax": softmax},
        }

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Take the count; mark a share above the limit."""
        reading = super().reduce(metric, processes)
        if metric == "parameters_over_softmax" and reading.value > LIMIT:
            return Reading(reading.value, stop_reason=f"more than {LIMIT:.0%} above softmax's layer")
        return reading


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
