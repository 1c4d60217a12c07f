"""Memory of work whose cost is known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cab.mechanisms.linear import Linear
from cab.mechanisms.softmax import Softmax

from cab import Mechanism
from cab.contracts.case import Case
from cab.meters.memory import Memory, peak_allocated, resident_growth


def test_peak_allocated_is_exact() -> None:
    def call() -> torch.Tensor:
        a = torch.empty(1000)
        b = torch.empty(3000)
        del b
        c = torch.empty(500)
        return a.sum() + c.sum()  # three scalars

    assert peak_allocated(call) == 4 * (1000 + 3000)
    assert peak_allocated(lambda: torch.empty(10) is None) == 40
    earlier = torch.empty(5000)
    assert peak_allocated(lambda: earlier.neg_()) == 0  # what was there before does not count


def test_peak_allocated_sees_what_a_kernel_takes_for_itself() -> None:
    q = torch.randn(1, 2, 256, 16)
    assert peak_allocated(lambda: F.scaled_dot_product_attention(q, q, q)) > q.nbytes + 4 * 2 * 256


def test_the_resident_set_grows_by_what_is_touched() -> None:
    size = 64 << 20
    touched = resident_growth(lambda: torch.ones(size // 4))
    assert size <= touched["samples"][0] < size + (4 << 20)
    untouched = resident_growth(lambda: torch.empty(size // 4))
    assert untouched["samples"][0] < 4 << 20


def test_memory_of_a_workload_is_two_metrics_and_the_same_each_time(
    make_workload: Callable[..., Any], values_of: Callable[..., dict[str, float]]
) -> None:
    workload = make_workload(n=128, m=128)
    first, second = values_of(Memory(), workload), values_of(Memory(), workload)
    assert set(first) == {"peak_allocated", "peak_resident"}
    assert first["peak_allocated"] == second["peak_allocated"] >= 2 * 3 * 4 * 128 * 128 * 4  # scores and weights


def test_the_gradients_of_a_training_step_are_part_of_its_peak(case: Case, stub_workload: Callable[..., Any]) -> None:
    module, x = torch.nn.Linear(300, 200, bias=False), torch.randn(1, 300)

    def step() -> None:
        module.zero_grad()
        module(x).sum().backward()

    workload = stub_workload(step, has_run=False, module=module)
    peaks = [Memory().measure(workload, case)["peak_allocated"]["samples"][0] for _ in range(2)]
    assert peaks[0] == peaks[1] and 4 * 60_000 <= peaks[0] < 4 * 62_000  # and a few small tensors


def test_on_cuda_memory_is_allocated_and_reserved(case: Case) -> None:
    assert set(Memory().applies(replace(case, device="cuda:0"))) == {"peak_allocated", "peak_reserved", "device_wide"}


def test_on_cuda_each_figure_is_growth(
    case: Case, stub_workload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fake GPU: 100 bytes are allocated before, 30 more at the peak; other programs take some of the rest."""
    gpu = {"allocated": 100, "reserved": 200, "free": 1000}
    for name in ("allocated", "reserved"):
        monkeypatch.setattr(torch.cuda, f"memory_{name}", lambda device, name=name: gpu[name])
        monkeypatch.setattr(torch.cuda, f"max_memory_{name}", lambda device, name=name: gpu[name])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu["free"], 2000))
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        if len(runs) == 2:  # the first is warm-up
            gpu.update(allocated=130, reserved=264, free=900)

    workload = stub_workload(run, device="cuda", has_run=False)
    results = Memory().measure(workload, replace(case, device="cuda:0"))
    assert {name: result["samples"] for name, result in results.items()} == {
        "peak_allocated": [30],
        "peak_reserved": [64],
        "device_wide": [100],
    }


@pytest.mark.parametrize(("mechanism", "values"), [(Softmax, 2 * 49 * 16), (Linear, 17 * 16)])
def test_the_state_of_decoding_has_the_size_of_what_is_kept(
    mechanism: type[Mechanism],
    values: int,
    make_workload: Callable[..., Any],
    values_of: Callable[..., dict[str, float]],
) -> None:
    """Softmax keeps keys and values, linear attention sums of them."""
    state_bytes, longer = (
        values_of(Memory(), make_workload(mechanism, pattern="CS", pass_="decode", n=n, m=n))["decode_state"]
        for n in (48, 96)
    )
    assert state_bytes / (3 * 4 * 4) == pytest.approx(values, rel=0.1)  # batch, heads, bytes of a float32
    assert (longer > 1.9 * state_bytes) == (mechanism is Softmax)
