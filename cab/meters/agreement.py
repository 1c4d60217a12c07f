"""Agreement with softmax on the same q, k and v, random or of a trained model: of the outputs, and of the selection."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cab import Meter, Reading
from cab.intervals import student

if TYPE_CHECKING:
    from torch import Tensor

MAX_WEIGHTS = 1 << 26  # of one sample, all heads: half a GiB in float64, of which some copies are held at once
TRAINED = "trained model, first layer; a sample is a test example"
SELECTION = ("recall_at_budget", "mass_at_budget")
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
        "deviation 1/2, 1 and 2, and with pass=train the trained model's first attention layer on each of 8 test "
        "examples, both in float64, with Student's t interval over them; cosine, sum |a - b| / sum |b| "
        "and root mean square error over all values of the output; recall: share of softmax's b heaviest keys among "
        "the b that a query selects, mass: softmax's weight on those b, over the queries that do not see every key; "
        "the mean of the three spreads"
    )
    version = 3
    trains = True

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """The mechanism alone in one forward pass has the same q, k and v as softmax, and a layer that is trained."""
        alone = case.level == "attend" and case.pass_ == "forward"
        return self.metrics if alone or "training" in case.settings else {}

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Compare at each spread, one sample a spread; or on what the trained layer reads, a test example a sample.

        `Unsupported` where q, k and v are not all read, `Wrong` where the output is not finite.
        """
        import torch

        from cab.attention.random_inputs import RandomInputs
        from cab.attention.spread_inputs import SPREADS, spread_arguments

        if "training" in case.settings:
            return _of_trained(*workload.first_attention())
        _check_size(case.heads, case.n, case.m)
        mechanism = workload.mechanism
        inputs = RandomInputs(case.seed, workload.dtype, workload.device, case.settings.get("padding", 0.0))
        distances = [
            _distances(mechanism, spread_arguments(mechanism, inputs, case.batch, case.n, case.m, spread))
            for spread in SPREADS
        ]
        # the map is made of one sample in float64, so that zero weights can be told from small ones
        settings = {key: value for key, value in case.settings.items() if key != "padding"}
        exact = workload.twin(dtype="float64", device="cpu", backend="eager", batch=1, settings=settings).mechanism
        exact.eval()
        inputs = RandomInputs(case.seed, torch.float64, torch.device("cpu"))
        each = (spread_arguments(exact, inputs, 1, case.n, case.m, spread) for spread in SPREADS)
        return _results(distances, exact, each, {"spreads": list(SPREADS)})

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the mean of the spreads, of which each is a sample; of a trained model, of the examples."""
        samples = [float(s) for process in processes for s in process["samples"]]
        if "of" in processes[0]:
            low, high = student(samples) or (None, None)
            return Reading(fmean(samples), low, high, len(samples), len(processes), stop_reason=processes[0]["of"])
        spreads = ", ".join(f"{spread:g}" for spread in processes[0].get("spreads", ()))
        remark = f"mean over logits of standard deviation {spreads}" if spreads else ""
        return Reading(fmean(samples), count=len(samples), processes=len(processes), stop_reason=remark)


def _of_trained(mechanism: Any, examples: "Sequence[dict[str, Tensor]]") -> dict[str, dict[str, Any]]:
    from cab.errors import Unsupported

    if not all(name in mechanism.reads for name in "qkv"):
        reads = ", ".join(mechanism.reads) or "none of them"
        raise Unsupported(f"softmax on the same weights needs q, k and v, and this mechanism reads {reads}")
    for each in examples:
        _check_size(mechanism.slot.heads, each["q"].shape[2], each["k"].shape[2])
    return _results([_distances(mechanism, each) for each in examples], mechanism, examples, {"of": TRAINED})


def _check_size(heads: int, n: int, m: int) -> None:
    from cab.errors import Unsupported

    if heads * n * m > MAX_WEIGHTS:
        raise Unsupported(
            f"{heads} heads, {n} queries and {m} keys: softmax's weights are held in float64, "
            f"at most {MAX_WEIGHTS:,} of them"
        )


def _results(
    distances: Sequence[dict[str, float]], exact: Any, each: "Iterable[dict[str, Tensor]]", about: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Put distances together with what the mechanism `exact` selects for each set of arguments, where it selects."""
    from cab.errors import Unsupported

    results: dict[str, dict[str, Any]] = {
        f"softmax_{name}": {"samples": [sample[name] for sample in distances], **about} for name in distances[0]
    }
    try:
        shares = [_selection(exact, arguments) for arguments in each]
    except Unsupported as refusal:
        return results | {name: {"status": "unsupported", "reason": str(refusal)} for name in SELECTION}
    selection = zip(SELECTION, zip(*shares, strict=True), strict=True)
    return results | {name: {"samples": list(values), **about} for name, values in selection}


def _distances(mechanism: Any, arguments: "dict[str, Tensor]") -> dict[str, float]:
    """Return the distances of a mechanism's output from softmax's; `Wrong` where it is not finite."""
    import torch

    from cab.errors import Wrong

    with torch.no_grad():
        ours, softmax = _real_rows(mechanism, arguments)
    if not ours.isfinite().all():
        raise Wrong("the output is not finite")
    return output_distances(ours, softmax)


def _selection(mechanism: Any, arguments: "dict[str, Tensor]") -> tuple[float, float]:
    """Return recall and mass of one sample; `Unsupported` where no keys are selected, or too many weights there."""
    from cab.attention.attention_map import MAX_TOKENS, weights_of_values
    from cab.attention.spread_inputs import softmax_weights, visible_keys
    from cab.errors import Unsupported

    if max(arguments["q"].shape[2], arguments["k"].shape[2]) > MAX_TOKENS:
        raise Unsupported(f"the map of more than {MAX_TOKENS} queries or keys is not computed")
    weights = weights_of_values(mechanism, arguments)
    if weights is None:
        raise Unsupported("the output is not a weighted sum of the values, so that no key has a weight")
    softmax = softmax_weights(mechanism, arguments)[0]
    shares = selected(weights, softmax, visible_keys(mechanism, arguments)[0].expand_as(softmax))
    if shares is None:
        raise Unsupported("every query sees every key that softmax sees: nothing is selected")
    return shares


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
