"""Diagnostics of an attention map: how the weights of an untrained mechanism, or of a trained model's, are spread."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cab import Meter, Reading
from cab.intervals import student

if TYPE_CHECKING:
    from torch import Tensor

UNTRAINED = "untrained, on random inputs; a sample is a head"
TRAINED = "trained model, first layer; a sample is a test example"
TOP = 10  # keys, as in ACMIL's figure


class Diagnostics(Meter):
    """What the weights of one sample look like: how alike the queries' rows are, and on how few keys they lie."""

    metrics = {
        "row_diversity": ("fraction", True),
        "top_10_mass": ("fraction", None),
        "first_key_mass": ("fraction", None),
        "heaviest_key_mass": ("fraction", None),
        "attention_entropy": ("nats", None),
        "effective_rank": ("", None),
    }
    method = (
        "effective weights of an untrained mechanism on one sample of standard normal inputs, and with "
        "pass=train of the trained model's first attention layer on each of 8 test examples, in float64; their"
        " sizes sum to 1 in each row; diversity: 1 - mean cosine of the rows with their mean; mass: mean over"
        " rows on the 10 heaviest keys, on key 0 and on the key that is heaviest on average; entropy: mean "
        "over rows; effective rank: exp of the entropy of the signed map's singular values; the mean over "
        "heads, and over the examples with Student's t interval"
    )
    version = 3
    trains = True

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """The mechanism alone has a map in one forward pass, and a model that is trained."""
        alone = case.level == "attend" and case.pass_ == "forward"
        return self.metrics if alone or "training" in case.settings else {}

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Compute the map, and each metric of each head.

        `Unsupported` where no key has a weight, `Wrong` where the output is not finite.
        """
        import torch

        from cab.attention.attention_map import MAX_TOKENS, weights_of_values
        from cab.attention.random_inputs import RandomInputs
        from cab.errors import Unsupported, Wrong

        if max(case.n, case.m) > MAX_TOKENS:
            raise Unsupported(f"{case.n} queries and {case.m} keys: a map has at most {MAX_TOKENS} of each")
        if "training" in case.settings:
            exact, examples = workload.first_attention()
        else:  # one sample without padding, whose rows and keys are all real
            settings = {key: value for key, value in case.settings.items() if key != "padding"}
            exact = workload.twin(dtype="float64", device="cpu", backend="eager", batch=1, settings=settings).mechanism
            exact.eval()
            inputs = RandomInputs(case.seed, torch.float64, torch.device("cpu"))
            examples = [inputs.arguments(exact, 1, case.n, case.m)]
        if "v" not in exact.reads:
            raise Unsupported("the mechanism does not read v, so that no key has a weight")
        of_examples = []
        for arguments in examples:
            weights = weights_of_values(exact, arguments)
            if weights is None and not exact(**arguments).isfinite().all():
                raise Wrong("the output is not finite")
            if weights is None:
                raise Unsupported("the output is not a weighted sum of the values, so that no key has a weight")
            of_examples.append(of_map(weights))
        if "training" not in case.settings:
            return {name: {"samples": per_head, "of": UNTRAINED} for name, per_head in of_examples[0].items()}
        return {
            name: {"samples": [fmean(each[name]) for each in of_examples], "of": TRAINED} for name in of_examples[0]
        }

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the mean over the samples: heads, or of a trained model test examples, with their interval."""
        samples = [float(s) for process in processes for s in process["samples"]]
        remark = processes[0].get("of", UNTRAINED)
        low, high = (student(samples) if remark == TRAINED else None) or (None, None)
        return Reading(fmean(samples), low, high, len(samples), len(processes), stop_reason=remark)


def of_map(weights: "Tensor") -> dict[str, list[float]]:
    """Return the metrics of weights (heads, n, m), one value a head.

    Rows without any weight do not count. A head without any weight has 0 everywhere. `Wrong` where a weight is not
    finite.
    """
    from cab.errors import Wrong

    for number, head in enumerate(weights):
        if count := int((~head.isfinite()).sum()):
            what = "weight that is" if count == 1 else "weights that are"
            raise Wrong(f"head {number} of the map has {count} {what} not finite")
    per_head = [_of_head(head.double()) for head in weights]
    return {name: [values[name] for values in per_head] for name in per_head[0]}


def _of_head(weights: "Tensor") -> dict[str, float]:
    import torch

    sizes = weights.abs()
    rows = sizes[sizes.sum(-1) > 0]
    if not len(rows):
        return dict.fromkeys(Diagnostics.metrics, 0.0)
    rows = rows / rows.sum(-1, keepdim=True)
    columns = rows.mean(0)
    top = rows.topk(min(TOP, rows.shape[1])).values
    singular = torch.linalg.svdvals(weights)
    return {
        "row_diversity": _diversity(rows),
        "top_10_mass": top.sum(-1).mean().item(),
        "first_key_mass": columns[0].item(),
        "heaviest_key_mass": columns.max().item(),
        "attention_entropy": _entropy(rows).mean().item(),
        "effective_rank": _entropy(singular / singular.sum()).exp().item(),
    }


def _diversity(rows: "Tensor") -> float:
    """Return 1 - the mean cosine of rows (n, m) with their mean, less the small entries of rows that have large ones.

    Those below 2 / m, twice what uniform attention gives a key, are set to 0 (the attention diversity loss of TAP).
    """
    import torch

    large = rows >= 2 / rows.shape[1]
    kept = torch.where(large | ~large.any(-1, keepdim=True), rows, 0.0)
    cosines = torch.nn.functional.cosine_similarity(kept, kept.mean(0, keepdim=True), dim=-1)
    return 1 - cosines.mean().item()


def _entropy(shares: "Tensor") -> "Tensor":
    """Return the entropy of shares that sum to 1 in the last axis, in nats; 0 log 0 is 0."""
    import torch

    entropy: Tensor = torch.special.entr(shares).sum(-1)
    return entropy
