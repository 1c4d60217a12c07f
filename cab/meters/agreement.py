"""Agreement of an untrained mechanism with softmax on the same q, k and v: of the outputs, and of what it selects."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cab import Meter, Reading

if TYPE_CHECKING:
    from torch import Tensor

MAX_WEIGHTS = 1 << 26  # of one sample, all heads: half a GiB in float64, of which some copies are held at once
_NOTHING = 1e-12  # relative to the largest weight of a query: smaller ones are rounding


class Agreement(Meter):
    """How close the output lies to softmax's, and, where keys are selected, how many of the right ones they are."""

    metrics = {
        "softmax_cosine": ("fraction", True),
        "softmax_relative_l1": ("fraction", False),
        "softmax_rmse": ("", False),
        "recall_at_budget": ("fraction", True),
        "mass_at_budget": ("fraction", True),
    }
    method = (
        "untrained mechanism against softmax in float64 on the same random q, k, v, whose logits have standard "
        "deviation 1/2, 1 and 2; cosine, sum |a - b| / sum |b| and root mean square error over all values of the "
        "output; recall: share of softmax's b heaviest keys among the b that a query selects, mass: softmax's weight "
        "on those b, over the queries that do not see every key; the mean of the three spreads"
    )
    version = 1

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Only the mechanism alone, in one forward pass, has the same q, k and v as softmax."""
        return self.metrics if case.level == "attend" and case.pass_ == "forward" else {}

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Compare at each spread; one sample a spread.

        `Unsupported` where q, k and v are not all read, `Wrong` where the output is not finite.
        """
        import torch

        from cab.attention.attention_map import MAX_TOKENS, weights_of_values
        from cab.attention.random_inputs import RandomInputs
        from cab.attention.spread_inputs import SPREADS, softmax_weights, spread_arguments, visible_keys
        from cab.errors import Unsupported, Wrong

        if case.heads * case.n * case.m > MAX_WEIGHTS:
            raise Unsupported(
                f"{case.heads} heads, {case.n} queries and {case.m} keys: softmax's weights are held in float64, "
                f"at most {MAX_WEIGHTS:,} of them"
            )
        mechanism = workload.mechanism
        inputs = RandomInputs(case.seed, workload.dtype, workload.device, case.settings.get("padding", 0.0))
        distances: dict[str, list[float]] = {}
        with torch.no_grad():
            for spread in SPREADS:
                arguments = spread_arguments(mechanism, inputs, case.batch, case.n, case.m, spread)
                ours, softmax = _real_rows(mechanism, arguments)
                if not ours.isfinite().all():
                    raise Wrong("the output is not finite")
                for name, value in output_distances(ours, softmax).items():
                    distances.setdefault(f"softmax_{name}", []).append(value)
        results: dict[str, dict[str, Any]] = {
            name: {"samples": values, "spreads": list(SPREADS)} for name, values in distances.items()
        }
        selectors = ("recall_at_budget", "mass_at_budget")
        if max(case.n, case.m) > MAX_TOKENS:
            refusal = f"the map of more than {MAX_TOKENS} queries or keys is not computed"
            return results | {name: {"status": "unsupported", "reason": refusal} for name in selectors}
        # the map is made of one sample in float64, so that zero weights can be told from small ones
        settings = {key: value for key, value in case.settings.items() if key != "padding"}
        exact = workload.twin(dtype="float64", device="cpu", backend="eager", batch=1, settings=settings).mechanism
        exact.eval()
        inputs = RandomInputs(case.seed, torch.float64, torch.device("cpu"))
        shares: list[tuple[float, float]] = []
        for spread in SPREADS:
            arguments = spread_arguments(exact, inputs, 1, case.n, case.m, spread)
            weights = weights_of_values(exact, arguments)
            if weights is None:
                refusal = "the output is not a weighted sum of the values, so that no key has a weight"
                return results | {name: {"status": "unsupported", "reason": refusal} for name in selectors}
            softmax = softmax_weights(exact, arguments)[0]
            share = selected(weights, softmax, visible_keys(exact, arguments)[0].expand_as(softmax))
            if share is None:
                refusal = "every query sees every key that softmax sees: nothing is selected"
                return results | {name: {"status": "unsupported", "reason": refusal} for name in selectors}
            shares.append(share)
        for name, values in zip(selectors, zip(*shares, strict=True), strict=True):
            results[name] = {"samples": list(values), "spreads": list(SPREADS)}
        return results

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the mean of the spreads; the samples in the store are one for each."""
        samples = [float(s) for process in processes for s in process["samples"]]
        spreads = ", ".join(f"{spread:g}" for spread in processes[0].get("spreads", ()))
        remark = f"mean over logits of standard deviation {spreads}" if spreads else ""
        return Reading(fmean(samples), count=len(samples), processes=len(processes), stop_reason=remark)


def output_distances(ours: "Tensor", softmax: "Tensor") -> dict[str, float]:
    """Return cosine, relative L1 and root mean square error of two outputs of one shape, over all their values."""
    ours, softmax = ours.double().flatten(), softmax.double().flatten()
    difference, norms = ours - softmax, ours.norm() * softmax.norm()
    return {
        "cosine": (ours @ softmax / norms).item() if norms > 0 else 0.0,
        "relative_l1": (difference.abs().sum() / softmax.abs().sum()).item(),
        "rmse": difference.square().mean().sqrt().item(),
    }


def selected(weights: "Tensor", softmax: "Tensor", visible: "Tensor") -> tuple[float, float] | None:
    """Return recall and mass of the keys that a mechanism selects, for weights (heads, n, m) of it and of softmax.

    A query that selects b of the keys that it could see is held against softmax's b heaviest. Both are means over the
    queries that select some keys and not all; None where there are none.
    """
    import torch

    chosen = weights.abs() > _NOTHING * weights.abs().amax(-1, keepdim=True)
    budget = chosen.sum(-1)
    counted = (budget > 0) & (budget < visible.sum(-1))
    if not counted.any():
        return None
    order = softmax.masked_fill(~visible, -1.0).argsort(-1, descending=True)
    heaviest = torch.zeros_like(chosen).scatter_(
        -1, order, torch.arange(softmax.shape[-1], device=softmax.device) < budget[..., None]
    )
    recall = (chosen & heaviest).sum(-1) / budget.clamp(min=1)
    mass = (softmax * chosen).sum(-1)
    return recall[counted].double().mean().item(), mass[counted].double().mean().item()


def _real_rows(mechanism: Any, arguments: dict[str, Any]) -> "tuple[Tensor, Tensor]":
    """Return the outputs (rows, value_dim) of the mechanism and of softmax, without the rows of masked queries."""
    import torch

    from cab.attention.spread_inputs import per_query_head, softmax_weights

    samples = []
    for i in range(len(arguments["q"])):  # one sample of softmax's weights at a time
        sample = {name: t[i : i + 1] for name, t in arguments.items()}
        values = per_query_head(sample["v"], mechanism.slot.heads).double()
        samples.append(softmax_weights(mechanism, sample) @ values)
    ours, softmax = mechanism(**arguments), torch.cat(samples)
    mask = arguments.get("query_mask" if mechanism.slot.pattern.cross else "key_mask")
    if mask is None:
        return ours.flatten(0, 2), softmax.flatten(0, 2)
    return ours.transpose(1, 2)[mask].flatten(0, 1), softmax.transpose(1, 2)[mask].flatten(0, 1)
