"""What a case would take is counted on meta tensors: exact operations, and the peak of what tensors hold."""

from pathlib import Path

import pytest
import torch

from cab.contracts.case import Case
from cab.instruments.flop_counter import count_flops
from cab.planning.plan import plan
from cab.plugins import registry
from cab.runner.cost_estimates import estimate
from cab.store.store import Store
from cab.worker.cost_forecast import Allocations, forecast
from cab.worker.jobs import _workload


def case(*overrides: str) -> Case:
    return plan(["task=speed", "mechanism=softmax", "seq_len=64", "meters=[flops]", *overrides]).cases[0]


@pytest.mark.parametrize("name", registry.names("mechanism"))
def test_forward_and_backward_are_counted_for_every_mechanism(name: str) -> None:
    card = registry.card("mechanism", name)
    for pattern in card.facts["patterns"]:
        asked = case(f"mechanism={name}", f"pattern={pattern}", "seq_len=512")
        forward = forecast(asked, lambda c: _workload(c, Path(".")))
        both = forecast(
            case(f"mechanism={name}", f"pattern={pattern}", "seq_len=512", "pass=forward_backward"),
            lambda c: _workload(c, Path(".")),
        ) if card.facts["reads"] else forward  # fmt: skip
        assert both.flops >= forward.flops >= 0 and both.bytes >= 0


def test_a_leaf_that_enters_a_module_is_counted_through() -> None:
    layer, x = torch.nn.Linear(3, 4), torch.ones(2, 3, requires_grad=True)
    assert count_flops(lambda: torch.autograd.grad(layer(x).sum(), x)) == 2 * (2 * 3 * 4) * 2


def test_the_peak_is_what_tensors_hold_at_once() -> None:
    with Allocations() as seen:
        a = torch.empty(1000, device="meta")
        b = a + 1
        del a
        c = b + 1
        d = c.view(10, 100)
    assert seen.peak == 3 * 4000 - 4000 and seen.held == 8000 and d.shape == (10, 100)


def test_a_plan_is_estimated_and_what_will_not_fit_is_said(tmp_path: Path) -> None:
    planned = plan(["task=speed", "mechanism=softmax", "seq_len=64,1048576", "meters=[latency,memory]"])
    small, huge = estimate(planned, Store(tmp_path), tmp_path)
    assert small.fits and not huge.fits
    assert small.seconds is not None and huge.seconds is not None and huge.seconds > small.seconds > 0
    assert huge.bytes is not None and huge.bytes > 2 * 4 * (1 << 40)
