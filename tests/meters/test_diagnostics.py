"""Diagnostics: maps whose every figure is known, mechanisms whose maps are known, and what has no map."""

from collections.abc import Callable
from math import exp, log
from typing import Any

import pytest
import torch
from cab.mechanisms.local import Local
from cab.mechanisms.retention import Retention
from cab.mechanisms.softmax import Softmax

from cab.errors import Unsupported, Wrong
from cab.meters.diagnostics import Diagnostics, of_map

MakeWorkload = Callable[..., Any]


def figures(weights: torch.Tensor) -> dict[str, float]:
    return {name: values[0] for name, values in of_map(weights[None]).items()}


def test_the_identity_has_full_rank_and_looks_at_one_key() -> None:
    assert figures(torch.eye(25)) == {
        "row_diversity": pytest.approx(1 - 1 / 5),  # a row and the mean of n orthogonal ones: cosine 1 / sqrt(n)
        "top_10_mass": 1.0,
        "first_key_mass": pytest.approx(1 / 25),
        "heaviest_key_mass": pytest.approx(1 / 25),
        "attention_entropy": 0.0,
        "effective_rank": pytest.approx(25),
    }


def test_uniform_attention_has_rank_one_and_no_diversity() -> None:
    assert figures(torch.full((30, 40), 1 / 40)) == {
        "row_diversity": pytest.approx(0, abs=1e-12),
        "top_10_mass": pytest.approx(10 / 40),
        "first_key_mass": pytest.approx(1 / 40),
        "heaviest_key_mass": pytest.approx(1 / 40),
        "attention_entropy": pytest.approx(log(40)),
        "effective_rank": pytest.approx(1, abs=1e-6),
    }


@pytest.mark.parametrize(("sink", "first"), [(0, 0.7), (3, 0.3 / 19)])
def test_a_sink_is_found_on_the_first_key_or_elsewhere(sink: int, first: float) -> None:
    weights = torch.full((20, 20), 0.3 / 19)
    weights[:, sink] = 0.7
    found = figures(weights)
    assert found["first_key_mass"] == pytest.approx(first)
    assert found["heaviest_key_mass"] == pytest.approx(0.7)
    assert found["row_diversity"] == pytest.approx(0, abs=1e-12)


def test_small_weights_do_not_make_rows_alike() -> None:
    spread = torch.eye(50) * 0.6 + 0.4 / 50  # .4 of every row is the same; below 2 / n, it does not count
    assert figures(spread)["row_diversity"] == pytest.approx(figures(torch.eye(50))["row_diversity"])


def test_rows_count_by_their_shares_signs_by_the_rank_alone_and_empty_rows_not() -> None:
    weights = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)).double()
    scaled, negative = figures(weights * 7), figures(-weights)
    for name, value in figures(weights).items():
        assert scaled[name] == pytest.approx(value) and negative[name] == pytest.approx(value)
    with_empty = torch.cat([weights, torch.zeros(3, 12)])
    assert figures(with_empty) == pytest.approx(figures(weights))
    hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert figures(hadamard)["effective_rank"] == pytest.approx(2)
    assert figures(hadamard.abs())["effective_rank"] == pytest.approx(1, abs=1e-6)
    assert set(figures(torch.zeros(4, 4)).values()) == {0.0}


def test_effective_rank_is_the_exponential_of_the_entropy() -> None:
    shares = (0.5, 0.25, 0.25)
    entropy = -sum(p * log(p) for p in shares)
    assert figures(torch.diag(torch.tensor(shares)))["effective_rank"] == pytest.approx(exp(entropy))


def test_the_map_is_the_mechanisms(make_workload: MakeWorkload, values_of: Callable[..., dict[str, float]]) -> None:
    class Uniform(Softmax):
        """Every visible key alike."""

        def attend(self, q: Any, k: Any, v: Any, key_mask: Any = None, query_mask: Any = None) -> Any:
            seen = torch.arange(1, v.shape[2] + 1, dtype=v.dtype)[:, None]
            return v.cumsum(2) / seen if self.slot.pattern.causal else v.mean(2, keepdim=True).expand_as(v)

    noncausal = values_of(Diagnostics(), make_workload(Uniform))
    assert noncausal["attention_entropy"] == pytest.approx(log(48))
    assert noncausal["effective_rank"] == pytest.approx(1, abs=1e-6)
    causal = values_of(Diagnostics(), make_workload(Uniform, pattern="CS"))
    assert causal["attention_entropy"] == pytest.approx(sum(log(i) for i in range(1, 49)) / 48)
    assert causal["first_key_mass"] == causal["heaviest_key_mass"]
    assert causal["first_key_mass"] == pytest.approx(sum(1 / i for i in range(1, 49)) / 48)
    window = values_of(Diagnostics(), make_workload(Local, params={"window": 3}, pattern="CS"))
    assert window["top_10_mass"] == pytest.approx(1)  # a query sees four keys
    assert window["effective_rank"] > causal["effective_rank"]


@pytest.mark.parametrize("changes", [{"n": 20, "pattern": "CC"}, {"settings": {"padding": 0.4, "kv_heads": 2}}])
def test_a_head_is_a_sample(changes: Any, make_workload: MakeWorkload) -> None:
    workload = make_workload(Softmax, **changes)
    results = Diagnostics().measure(workload, workload.case)
    assert set(results) == set(Diagnostics.metrics)
    assert all(len(result["samples"]) == 4 for result in results.values())


def test_what_has_no_weights_or_too_many_is_refused(make_workload: MakeWorkload) -> None:
    for mechanism, changes, why in (
        (Retention, {"pattern": "CS"}, "not a weighted sum"),
        (Softmax, {"n": 1025, "m": 1025}, "at most 1024"),
    ):
        workload = make_workload(mechanism, **changes)
        with pytest.raises(Unsupported, match=why):
            Diagnostics().measure(workload, workload.case)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_map_that_is_not_finite_has_no_figures(value: float) -> None:
    weights = torch.full((3, 5, 5), 0.2)
    weights[1, 2, 3] = value
    with pytest.raises(Wrong, match="head 1 of the map has 1 weight that is not finite"):
        of_map(weights)
    weights[1] = value
    with pytest.raises(Wrong, match="head 1 of the map has 25 weights that are not finite"):
        of_map(weights)


@pytest.mark.parametrize("row", [slice(None), slice(7, 8)])
def test_an_output_that_is_not_finite_is_wrong_and_not_refused(row: slice, make_workload: MakeWorkload) -> None:
    class NotFinite(Softmax):
        """Some rows without a number."""

        def attend(self, q: Any, k: Any, v: Any, key_mask: Any = None, query_mask: Any = None) -> Any:
            out = v.mean(2, keepdim=True).expand(*q.shape[:3], -1).clone()
            out[:, :, row] = torch.nan
            return out

    workload = make_workload(NotFinite)
    with pytest.raises(Wrong, match="the output is not finite"):
        Diagnostics().measure(workload, workload.case)


def test_it_is_of_the_mechanism_alone_in_one_forward_pass(make_workload: MakeWorkload) -> None:
    for changes in ({"level": "layer"}, {"pass_": "backward"}):
        assert Diagnostics().applies(make_workload(**changes).case) == {}
