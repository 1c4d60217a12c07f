"""What a case would take is counted on meta tensors: exact operations, and the peak of what tensors hold."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cab.contracts.case import Case
from cab.contracts.pattern import Pattern
from cab.contracts.rasters import layouts
from cab.instruments.flop_counter import count_flops
from cab.planning.plan import plan
from cab.plugins import registry
from cab.worker.cost_forecast import Allocations, forecast
from cab.worker.jobs import load_workload


def case(*overrides: str) -> Case:
    return plan(["task=speed", "mechanism=softmax", "seq_len=64", "meters=[flops]", *overrides]).cases[0]


def build(case: Case) -> Any:
    return load_workload(case, Path("."))


@pytest.mark.parametrize("name", registry.names("mechanism"))
def test_forward_and_backward_are_counted_for_every_mechanism(name: str) -> None:
    card = registry.card("mechanism", name)
    wraps = card.facts["patterns"] == "inner"
    inners = [f"mechanism@mechanism.{inner}=softmax" for inner in card.takes if wraps]
    for pattern in ["NS", "CC"] if wraps else card.facts["patterns"]:
        accepted = layouts(card.facts["rasters"], card.facts["source_rasters"], Pattern.of(pattern))
        rasters = {(1, 1): ["seq_len=512"], (2, 2): ["seq_len=256", "raster=square"]}
        lengths = next((rasters[each] for each in rasters if each in accepted), ["seq_len=512", "raster=cube"])
        asked = [f"mechanism={name}", *inners, f"pattern={pattern}", *lengths]
        forward = forecast(case(*asked), build)
        assert forward.flops is not None and forward.flops >= 0 and forward.bytes is not None and forward.bytes >= 0
        if card.facts["reads"]:
            both = forecast(case(*asked, "pass=forward_backward"), build)
            assert both.flops is not None and both.flops >= forward.flops


def test_a_leaf_that_enters_a_module_is_counted_through() -> None:
    layer, x = torch.nn.Linear(3, 4), torch.ones(2, 3, requires_grad=True)
    assert count_flops(lambda: torch.autograd.grad(layer(x).sum(), x)) == 2 * (2 * 3 * 4) * 2


def test_the_peak_is_what_tensors_hold_at_once() -> None:
    with Allocations() as allocations:
        a = torch.empty(1000, device="meta")
        b = a + 1
        del a
        c = b + 1
        d = c.view(10, 100)
    assert allocations.peak == 3 * 4000 - 4000 and allocations.held == 8000 and d.shape == (10, 100)
