"""Agreement with softmax: softmax agrees with itself, known maps give known recalls, and what has none is refused."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cab.mechanisms.local import Local
from cab.mechanisms.mean import Mean
from cab.mechanisms.softmax import Softmax

from cab.attention.build import build_mechanism
from cab.attention.random_inputs import RandomInputs
from cab.attention.spread_inputs import SPREADS, softmax_weights, spread_arguments
from cab.contracts.case import Case
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import Unsupported, Wrong
from cab.meters.agreement import Agreement, output_distances, selected

MakeWorkload = Callable[..., Any]


class Heaviest(Softmax):
    """Softmax over the 8 heaviest keys of each query, causal."""

    def attend(self, q: Any, k: Any, v: Any, key_mask: Any = None, query_mask: Any = None) -> Any:
        logits = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).masked_fill(
            ~torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(), -torch.inf
        )
        eighth = logits.topk(8).values[..., -1:]
        return logits.masked_fill(logits < eighth, -torch.inf).softmax(-1) @ v


class Uniform(Softmax):
    """Every key alike."""

    def attend(self, q: Any, k: Any, v: Any, key_mask: Any = None, query_mask: Any = None) -> Any:
        return v.mean(2, keepdim=True).expand(*q.shape[:3], -1)


@pytest.mark.parametrize(
    "changes",
    [
        {"pattern": "NS"},
        {"pattern": "CS", "settings": {"padding": 0.3}},
        {"pattern": "NC", "n": 20, "settings": {"padding": 0.3}},
        {"pattern": "CC", "n": 20},
        {"pattern": "CS", "settings": {"kv_heads": 2, "value_dim": 8}},
        {"pattern": "CS", "backend": "sdpa"},
    ],
)
def test_softmax_agrees_with_itself(changes: Any, make_workload: MakeWorkload) -> None:
    workload = make_workload(Softmax, **changes)
    results = Agreement().measure(workload, workload.case)
    assert results["softmax_cosine"]["samples"] == pytest.approx([1.0] * 3, abs=1e-10)
    assert max(results["softmax_relative_l1"]["samples"]) < 1e-5
    assert max(results["softmax_rmse"]["samples"]) < 1e-5
    for name in ("recall_at_budget", "mass_at_budget"):
        assert "nothing is selected" in results[name]["reason"]


def test_the_rounding_of_a_dtype_is_part_of_the_error(make_workload: MakeWorkload) -> None:
    errors = {}
    for dtype in ("float64", "float32", "bfloat16"):
        workload = make_workload(Softmax, dtype=dtype)
        errors[dtype] = max(Agreement().measure(workload, workload.case)["softmax_rmse"]["samples"])
    assert errors["float64"] < 1e-14 < errors["float32"] < 1e-5 < errors["bfloat16"] < 1e-2


def test_distances_of_known_vectors() -> None:
    first, second = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    expected = {"cosine": 0.0, "relative_l1": 7 / 4, "rmse": pytest.approx(12.5**0.5)}
    assert output_distances(first, second) == expected
    assert output_distances(-2 * second, second) == {"cosine": -1.0, "relative_l1": 3.0, "rmse": pytest.approx(72**0.5)}
    assert output_distances(0 * second, second)["cosine"] == 0.0


def test_recall_and_mass_of_a_known_selection() -> None:
    softmax = torch.tensor([[[0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.25] * 4]])
    weights = torch.tensor([[[0.5, 0.0, -0.5, 0.0], [0.0, 1e-14, 0.0, 1.0], [0.25] * 4]])
    visible = torch.ones_like(softmax, dtype=torch.bool)
    # the first query has one of the two heaviest keys and .6 of the mass, the second none of one; the third sees all
    recall, mass = selected(weights, softmax, visible) or (None, None)
    assert recall == pytest.approx((0.5 + 0.0) / 2) and mass == pytest.approx((0.6 + 0.1) / 2)
    assert selected(weights[:, 2:], softmax[:, 2:], visible[:, 2:]) is None
    # what a query could not see does not count: with the last two keys hidden, the two others are all
    assert selected(weights[:, :1], softmax[:, :1], torch.tensor([[[True, False, True, False]]])) is None


def test_what_selects_the_heaviest_keys_finds_them_all(make_workload: MakeWorkload) -> None:
    workload = make_workload(Heaviest, pattern="CS")
    results = Agreement().measure(workload, workload.case)
    assert results["recall_at_budget"]["samples"] == pytest.approx([1.0] * 3)
    mass = results["mass_at_budget"]["samples"]
    assert mass == sorted(mass) and 8 / 48 < mass[0] and mass[-1] < 1  # sharper attention puts more on few keys


def test_a_window_finds_the_heaviest_keys_by_chance(make_workload: MakeWorkload) -> None:
    workload = make_workload(Local, params={"window": 5}, pattern="CS", n=256, m=256)
    results = Agreement().measure(workload, workload.case)
    # of the i + 1 keys that row i sees, the last 6 are chosen, whatever q and k are; three standard errors
    chance = torch.tensor([6 / (i + 1) for i in range(6, 256)]).mean().item()
    for name in ("recall_at_budget", "mass_at_budget"):
        assert results[name]["samples"] == pytest.approx([chance] * 3, rel=0.25)


def test_uniform_attention_agrees_less_the_sharper_softmax_is(make_workload: MakeWorkload) -> None:
    workload = make_workload(Uniform)
    cosines = Agreement().measure(workload, workload.case)["softmax_cosine"]["samples"]
    assert cosines == sorted(cosines, reverse=True) and cosines[0] > 0.8 > cosines[-1]


@pytest.mark.parametrize("spread", SPREADS)
def test_logits_have_the_spread(spread: float) -> None:
    mechanism = build_mechanism(Softmax, {}, Slot(Pattern.NS, heads=4, dim=16, max_len=128))
    inputs = RandomInputs(0, torch.float64, torch.device("cpu"))
    arguments = spread_arguments(mechanism, inputs, 4, 128, 128, spread)
    assert (arguments["q"] @ arguments["k"].transpose(2, 3) / 4).std().item() == pytest.approx(spread, rel=0.05)
    torch.testing.assert_close(softmax_weights(mechanism, arguments).sum(-1), torch.ones(4, 4, 128).double())


def test_what_does_not_read_q_k_and_v_is_refused(make_workload: MakeWorkload) -> None:
    workload = make_workload(Mean)
    with pytest.raises(Unsupported, match="needs q, k and v"):
        Agreement().measure(workload, workload.case)


def test_an_output_that_is_not_finite_is_wrong(make_workload: MakeWorkload) -> None:
    class NotFinite(Softmax):
        """Infinite in one row."""

        def attend(self, q: Any, k: Any, v: Any, key_mask: Any = None, query_mask: Any = None) -> Any:
            out = v.mean(2, keepdim=True).expand(*q.shape[:3], -1).clone()
            out[:, :, 7] = torch.inf
            return out

    workload = make_workload(NotFinite)
    with pytest.raises(Wrong, match="the output is not finite"):
        Agreement().measure(workload, workload.case)


def test_more_weights_than_memory_holds_are_refused_before_anything_is_computed(make_workload: MakeWorkload) -> None:
    workload = make_workload(n=1 << 13, m=1 << 13)
    with pytest.raises(Unsupported, match="4 heads, 8192 queries and 8192 keys"):
        Agreement().measure(workload, workload.case)


def test_beyond_the_longest_map_the_outputs_are_compared_still(make_workload: MakeWorkload) -> None:
    workload = make_workload(Local, params={"window": 5}, pattern="CS", n=1025, m=1025, batch=1, heads=1)
    results = Agreement().measure(workload, workload.case)
    assert all(0 < cosine < 1 for cosine in results["softmax_cosine"]["samples"])
    assert "more than 1024" in results["recall_at_budget"]["reason"]


def trained(mechanism: Any, **changes: Any) -> Any:
    """Return a stand-in for a trained model, whose first attention layer reads random q, k and v of 48 tokens."""
    built = build_mechanism(mechanism, {}, Slot(Pattern.CS, heads=4, dim=16, max_len=48)).double().eval()
    inputs = [RandomInputs(seed, torch.float64, torch.device("cpu")) for seed in range(3)]
    examples = [{**each.arguments(built, 1, 48, 48), **changes} for each in inputs]
    return SimpleNamespace(first_attention=lambda: (built, examples))


def test_of_a_trained_model_its_first_layer_is_compared(case: Case) -> None:
    training = replace(case, level="model", pass_="train", settings={"training": {}})
    assert Agreement().applies(training) == Agreement.metrics
    same = Agreement().measure(trained(Softmax), training)
    assert same["softmax_rmse"]["samples"][0] < 1e-12 and "nothing is selected" in same["recall_at_budget"]["reason"]
    selecting = Agreement().measure(trained(Heaviest), training)
    assert selecting["recall_at_budget"]["samples"] == pytest.approx([1.0] * 3)
    assert 0.9 < selecting["softmax_cosine"]["samples"][0] < 1
    reading = Agreement().reduce("softmax_cosine", [selecting["softmax_cosine"]])
    assert reading.stop_reason == "trained model, first layer; a sample is a test example" and reading.count == 3
    assert reading.ci_low is not None and reading.ci_low < reading.value < (reading.ci_high or 0)
    with pytest.raises(Unsupported, match="needs q, k and v"):
        Agreement().measure(trained(Mean), training)


def test_padding_of_a_trained_models_example_does_not_count(case: Case) -> None:
    training = replace(case, level="model", pass_="train", settings={"training": {}})
    mask = torch.arange(48)[None] < 40
    results = Agreement().measure(trained(Softmax, key_mask=mask), training)
    assert results["softmax_rmse"]["samples"][0] < 1e-12


def test_it_is_of_the_mechanism_alone_in_one_forward_pass(make_workload: MakeWorkload) -> None:
    meter = Agreement()
    for changes in ({"level": "layer"}, {"pass_": "backward"}):
        assert meter.applies(make_workload(**changes).case) == {}
    assert meter.applies(make_workload().case) == meter.metrics


def test_the_value_is_the_mean_of_the_spreads_and_names_them() -> None:
    reading = Agreement().reduce("softmax_cosine", [{"samples": [1.0, 0.9, 0.5], "spreads": [0.5, 1.0, 2.0]}])
    assert reading.value == pytest.approx(0.8)
    assert reading.stop_reason == "mean over logits of standard deviation 0.5, 1, 2"
