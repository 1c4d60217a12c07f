"""Each meter on work of known cost, and what becomes of samples."""

import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cab.mechanisms.linear import Linear
from cab.mechanisms.none import Nothing
from cab.mechanisms.softmax import Softmax
from cab.tasks.speed import Speed

from cab import Mechanism, Reading
from cab.contracts.case import Case
from cab.instruments import timers
from cab.instruments.flop_counter import count_flops
from cab.instruments.memory_traffic import traffic
from cab.intervals import half_width_of_median, student, student_of_logs, student_of_ratio, wilson
from cab.meters.energy import Energy
from cab.meters.flops import Flops
from cab.meters.frontier import Frontier
from cab.meters.instructions import Instructions
from cab.meters.latency import Latency
from cab.meters.memory import Memory, peak_allocated, resident_growth
from cab.meters.parameters import Parameters
from cab.meters.quality import Quality
from cab.plugins import registry
from cab.worker.workload import Workload, build

CASE = Case(
    mechanism="softmax",
    params={},
    pattern="NS",
    task="speed",
    task_params={},
    n=48,
    m=48,
    batch=3,
    heads=4,
    dim=16,
    dtype="float32",
    device="cpu",
    backend="eager",
    level="attend",
    pass_="forward",
    seed=0,
    scale="quick",
)


def workload(mechanism: type[Mechanism] = Softmax, **changes: Any) -> Workload:
    return build(replace(CASE, **changes), Speed, mechanism, Softmax, Path("data"))


def measured(meter: Any, made: Workload) -> dict[str, float]:
    """Return the values, by way of JSON, as the store keeps them."""
    found = json.loads(json.dumps(meter.measure(made, made.case)))
    assert set(found) == set(meter.applies(made.case))
    return {name: meter.reduce(name, [given]).value for name, given in found.items() if "samples" in given}


# Intervals


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # Brown, Cai and DasGupta (2001) and R's binom::binom.wilson
    [(8, 10, 0.4901625, 0.9433178), (0, 10, 0.0, 0.2775328), (10, 10, 0.7224672, 1.0), (50, 100, 0.4038315, 0.5961685)],
)
def test_wilson_gives_the_published_intervals(successes: int, total: int, low: float, high: float) -> None:
    assert wilson(successes, total) == pytest.approx((low, high), abs=1e-6)


def test_student_gives_the_textbook_interval() -> None:
    assert student([1, 2, 3, 4, 5]) == pytest.approx((3 - 1.963243, 3 + 1.963243), abs=1e-5)  # t(4) = 2.776445
    logs = student_of_logs([math.exp(v) for v in (1, 2, 3, 4, 5)])
    assert logs == pytest.approx((math.exp(3 - 1.963243), math.exp(3 + 1.963243)), rel=1e-5)
    assert student([1.0]) is None and student_of_logs([1.0]) is None and student_of_ratio([1.0], [1.0]) is None


def test_a_ratio_of_equal_counts_has_the_interval_of_the_mean() -> None:
    assert student_of_ratio([2, 4, 6, 8, 10], [2] * 5) == pytest.approx(student([1, 2, 3, 4, 5]))


def test_the_median_is_known_once_enough_samples_agree() -> None:
    assert half_width_of_median([1.0] * 5) == math.inf
    assert half_width_of_median([2.0] * 10) == 0
    # of 100: ranks 40 and 61 (counted from 1: 41, 61), z sqrt(100) / 2 = 9.8 around the middle
    assert half_width_of_median([100 + i for i in range(100)]) == pytest.approx((160 - 140) / 2 / 149.5)


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_the_interval_of_latency_covers_at_its_level(spread: float) -> None:
    """Processes differ (log-normally, about 1), samples inside one hardly do: pooling them would cover far less."""
    draw, repetitions, covered = random.Random(0), 4000, 0
    for _ in range(repetitions):
        levels = [math.exp(draw.gauss(0, spread)) for _ in range(5)]
        reading = Latency().reduce("latency", [{"samples": [level, level, level * 1.01]} for level in levels])
        covered += reading.ci_low <= 1 <= reading.ci_high
    assert covered / repetitions == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


# Latency


def test_latency_is_the_median_of_the_processes_medians() -> None:
    processes = [{"samples": [v, v * 0.99, v * 5], "stop": "precision"} for v in (1.0, 1.02, 0.98, 1.01, 1.5)]
    reading = Latency().reduce("latency", processes)
    assert reading.value == median(v for v in (1.0, 1.02, 0.98, 1.01, 1.5))
    assert reading.ci_low < reading.value < reading.ci_high
    assert (reading.count, reading.processes, reading.converged) == (15, 5, False)
    assert "exceeds ±5%" in reading.stop_reason and "precision 5" in reading.stop_reason
    assert Latency().reduce("latency", [{"samples": p["samples"]} for p in processes]).value == reading.value


def test_latency_has_converged_when_its_interval_is_within_five_per_cent() -> None:
    reading = Latency().reduce("latency", [{"samples": [v]} for v in (1.0, 1.01, 0.99, 1.0, 1.02)])
    assert reading.converged and "within ±5%" in reading.stop_reason
    assert math.sqrt(reading.ci_high / reading.ci_low) - 1 < 0.05
    one = Latency().reduce("latency", [{"samples": [1.0, 2.0, 3.0]}])
    assert (one.value, one.ci_low, one.converged) == (2.0, None, False) and "one process" in one.stop_reason


def test_the_value_lies_in_its_interval_however_skewed_the_processes() -> None:
    reading = Latency().reduce("latency", [{"samples": [v]} for v in [1.0] * 40 + [10.0] * 24])
    assert reading.ci_low <= reading.value <= reading.ci_high


def test_latency_of_a_workload_is_per_call_and_of_decoding_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timers.TIMERS, "own", lambda run, device: timers.Timing([6.4], throttled=[12.8]))
    call = SimpleNamespace(run=lambda: None, has_run=True, calls=64, device=torch.device("cpu"))
    found = Latency().measure(call, CASE)["latency"]
    assert (found["samples"], found["throttled"]) == ([0.1], [0.2])
    assert "1 samples at a throttled clock" in Latency().reduce("latency", [found] * 2).stop_reason.replace(
        "2 s", "1 s"
    )


@pytest.mark.parametrize("checked", [True, False])
def test_the_first_run_of_a_pass_is_no_sample(checked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    call = SimpleNamespace(run=lambda: runs.append(1), has_run=checked, calls=1, device=torch.device("cpu"))
    monkeypatch.setitem(timers.TIMERS, "own", lambda run, device: timers.Timing([float(len(runs))]))
    for meter, case in ((Latency(), CASE), (Frontier(), replace(CASE, settings={"latency_limit": 1.0}))):
        runs.clear()
        (found,) = meter.measure(call, case).values()
        assert found["samples"] == [0.0 if checked else 1.0]


def test_latency_of_a_real_workload_is_a_positive_number() -> None:
    assert measured(Latency(), workload())["latency"] > 0


# Memory


def test_peak_allocated_is_exact() -> None:
    def call() -> torch.Tensor:
        a = torch.empty(1000)
        b = torch.empty(3000)
        del b
        c = torch.empty(500)
        return a.sum() + c.sum()  # three scalars

    assert peak_allocated(call) == 4 * (1000 + 3000)
    assert peak_allocated(lambda: torch.empty(10) is None) == 40
    held = torch.empty(5000)
    assert peak_allocated(lambda: held.neg_()) == 0  # what was there before does not count


def test_peak_allocated_sees_what_a_kernel_takes_for_itself() -> None:
    q = torch.randn(1, 2, 256, 16)
    assert peak_allocated(lambda: F.scaled_dot_product_attention(q, q, q)) > q.nbytes + 4 * 2 * 256


def test_the_resident_set_grows_by_what_is_touched() -> None:
    size = 64 << 20
    grown = resident_growth(lambda: torch.ones(size // 4))
    assert size <= grown["samples"][0] < size + (4 << 20)
    untouched = resident_growth(lambda: torch.empty(size // 4))
    assert untouched["samples"][0] < 4 << 20


def test_memory_of_a_workload_is_two_metrics_and_the_same_each_time() -> None:
    made = workload(n=128, m=128)
    first, second = measured(Memory(), made), measured(Memory(), made)
    assert set(first) == {"peak_allocated", "peak_resident"}
    assert first["peak_allocated"] == second["peak_allocated"] >= 2 * 3 * 4 * 128 * 128 * 4  # scores and weights


def test_the_gradients_of_a_training_step_are_part_of_its_peak() -> None:
    module, x = torch.nn.Linear(300, 200, bias=False), torch.randn(1, 300)

    def step() -> None:
        module.zero_grad()
        module(x).sum().backward()

    call = SimpleNamespace(run=step, has_run=False, module=module, device=torch.device("cpu"))
    peaks = [Memory().measure(call, CASE)["peak_allocated"]["samples"][0] for _ in range(2)]
    assert peaks[0] == peaks[1] and 4 * 60_000 <= peaks[0] < 4 * 62_000  # and a few small tensors


def test_on_cuda_memory_is_allocated_and_reserved() -> None:
    assert set(Memory().applies(replace(CASE, device="cuda:0"))) == {"peak_allocated", "peak_reserved", "device_wide"}


def test_on_cuda_each_figure_is_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for a GPU: 100 bytes are held before, 30 more at the peak; others take of the rest."""
    held = {"allocated": 100, "reserved": 200, "free": 1000}
    for name in ("allocated", "reserved"):
        monkeypatch.setattr(torch.cuda, f"memory_{name}", lambda device, name=name: held[name])
        monkeypatch.setattr(torch.cuda, f"max_memory_{name}", lambda device, name=name: held[name])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (held["free"], 2000))
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    calls: list[int] = []

    def run() -> None:
        calls.append(1)
        if len(calls) == 2:  # the first is warm-up
            held.update(allocated=130, reserved=264, free=900)

    call = SimpleNamespace(run=run, has_run=False, module=torch.nn.Identity(), device=SimpleNamespace(type="cuda"))
    found = Memory().measure(call, replace(CASE, device="cuda:0"))
    assert {name: given["samples"] for name, given in found.items()} == {
        "peak_allocated": [30],
        "peak_reserved": [64],
        "device_wide": [100],
    }


@pytest.mark.parametrize(("mechanism", "pattern", "values"), [(Softmax, "CS", 2 * 49 * 16), (Linear, "CS", 17 * 16)])
def test_the_state_of_decoding_has_the_size_of_what_is_kept(
    mechanism: type[Mechanism], pattern: str, values: int
) -> None:
    """Softmax keeps keys and values, linear attention sums of them."""
    found = measured(Memory(), workload(mechanism, pattern=pattern, pass_="decode"))
    state = found["decode_state"] / (3 * 4 * 4)  # batch, heads, bytes of a float32
    longer = measured(Memory(), workload(mechanism, pattern=pattern, pass_="decode", n=96, m=96))["decode_state"]
    assert values * 0.9 <= state <= values * 1.1, state
    assert (longer > 1.9 * found["decode_state"]) == (mechanism is Softmax)


# FLOPs


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_counter_counts_what_is_known(device: str) -> None:
    a, b, x = (torch.randn(*shape, device=device) for shape in ((3, 4, 5), (3, 5, 6), (5,)))
    assert count_flops(lambda: a @ b) == 2 * 3 * 4 * 5 * 6
    assert count_flops(lambda: a[0] @ x) == 2 * 4 * 5
    assert count_flops(lambda: x @ x) == 2 * 5
    assert count_flops(lambda: torch.addmv(a[0, :, 0], a[0], x)) == 2 * 4 * 5
    assert count_flops(lambda: (a.softmax(-1) + a).cumsum(-1)) == 0
    signal = torch.randn(7, 64, device=device)
    assert count_flops(lambda: torch.fft.rfft(signal)) == 7 * 5 * 64 * 6
    assert count_flops(lambda: torch.fft.irfft(torch.fft.rfft(signal), n=64)) == 2 * 7 * 5 * 64 * 6
    assert count_flops(lambda: torch.fft.fft(signal)) == 7 * 5 * 64 * 6
    assert count_flops(lambda: torch.fft.fft2(signal)) == pytest.approx(5 * 448 * math.log2(448))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_counter_sees_sdpa_forward_and_backward(device: str, causal: bool, kv_heads: int) -> None:
    q = torch.randn(2, 4, 32, 8, device=device, requires_grad=True)
    k, v = (torch.randn(2, kv_heads, 32, 8, device=device, requires_grad=True) for _ in range(2))
    grouped = kv_heads != 4

    def forward() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

    product_ = 2 * 2 * 4 * 32 * 32 * 8
    assert count_flops(forward) == 2 * product_
    # the fused backward computes the scores again: five products, and decomposed four
    both = count_flops(lambda: torch.autograd.grad(forward().sum(), (q, k, v)))
    assert both == (2 + (5 if device == "cpu" else 4)) * product_


@pytest.mark.parametrize(
    ("mechanism", "pattern", "n", "level"),
    list(product([Softmax, Linear, Nothing], ["NS", "CS", "NC", "CC"], [48, 129], ["attend", "layer"])),
)
def test_closed_form_and_counter_agree(mechanism: type[Mechanism], pattern: str, n: int, level: str) -> None:
    made = workload(mechanism, pattern=pattern, n=n, m=31 if "C" == pattern[1] else n, level=level)
    found = measured(Flops(), made)
    assert found["flops"] == pytest.approx(found["flops_counted"], rel=0.02)
    assert found["flops_needed"] <= found["flops"]


def test_flops_of_softmax_are_those_of_two_products_for_the_whole_batch() -> None:
    found = measured(Flops(), workload(pattern="CS"))
    assert found["flops"] == found["flops_counted"] == 3 * 4 * 2 * 2 * 48 * 48 * 16
    assert found["flops_needed"] == found["flops"] * (48 + 1) / (2 * 48)
    layer = measured(Flops(), workload(pattern="CS", level="layer"))
    assert layer["flops"] - found["flops"] == 3 * 4 * 2 * 48 * 64 * 64


def test_other_passes_are_counted_only() -> None:
    forward = measured(Flops(), workload())["flops_counted"]
    backward = measured(Flops(), workload(pass_="backward"))
    assert set(backward) == {"flops_counted", "bytes_needed", "bytes_moved", "intensity"}
    assert backward["flops_counted"] == 2 * forward
    assert measured(Flops(), workload(pass_="forward_backward"))["flops_counted"] == 3 * forward
    token = measured(Flops(), workload(pattern="CS", pass_="decode"))
    assert token["flops_counted"] == 3 * 4 * 2 * 2 * 49 * 16  # one query against 48 keys and its own
    # a token's q, k and v, its output, and the state of 48 tokens
    assert token["bytes_needed"] == pytest.approx(3 * 4 * 16 * 4 * (4 + 2 * 48), rel=0.1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bytes_are_those_of_each_operation_and_of_what_goes_in_and_comes_out(device: str) -> None:
    a, b = torch.empty(30, 40, device=device), torch.empty(40, 50, device=device)
    into, outof, through = 4 * (30 * 40 + 40 * 50), 4 * 30 * 50, 4 * 30 * 50
    assert traffic(lambda: a @ b) == (into + outof, into + outof)
    assert traffic(lambda: (a @ b).exp()) == (into + outof, into + outof + 2 * through)
    assert traffic(lambda: (a @ b).t().reshape(5, 300)) == (into + outof, into + outof + 2 * through)  # copies
    assert traffic(lambda: a.t()[:20]) == (4 * 30 * 20, 0)  # a view moves nothing
    assert traffic(lambda: a.neg_()) == (2 * 4 * 30 * 40, 2 * 4 * 30 * 40)
    assert traffic(lambda: a + a[:1].expand(30, 40)) == (2 * 4 * 30 * 40, 2 * 4 * 30 * 40 + 4 * 40)
    assert traffic(lambda: torch.empty_like(a) is None) == (0, 0)


def test_the_bytes_of_softmax() -> None:
    """Needed: q, k, v and the output. Moved: two products, the scale and the softmax besides, of 48 x 48 scores."""
    found = measured(Flops(), workload())
    tokens, scores = 3 * 4 * 48 * 16 * 4, 3 * 4 * 48 * 48 * 4
    assert found["bytes_needed"] == 4 * tokens
    assert 4 * tokens + 4 * scores <= found["bytes_moved"] <= 8 * tokens + 8 * scores
    assert found["intensity"] == found["flops_needed"] / found["bytes_needed"]
    layer = measured(Flops(), workload(level="layer"))
    assert layer["bytes_needed"] == 2 * tokens + 4 * 4 * 64 * 65  # tokens in and out, four projections


def test_flops_of_another_backend_are_counted_on_eager_attend() -> None:
    assert measured(Flops(), workload(backend="sdpa")) == measured(Flops(), workload())


def test_flops_of_a_million_tokens_cost_no_memory() -> None:
    made = workload(n=1 << 20, m=1 << 20)
    grown = resident_growth(lambda: Flops().measure(made, made.case))
    assert "_scene" not in vars(made) and grown["samples"][0] < 100 << 20  # q alone would be 805 MB


def test_a_mechanism_without_a_closed_form_is_counted() -> None:
    class Unwritten(Softmax):
        flops = Mechanism.flops

    found = Flops().measure(workload(Unwritten), CASE)
    assert found["flops"] == {"status": "unsupported", "reason": "Unwritten does not define flops"}
    assert found["flops_counted"]["samples"] == [3 * 4 * 2 * 2 * 48 * 48 * 16]


def test_what_meta_tensors_cannot_do_is_counted_on_real_ones() -> None:
    class Selects(Softmax):
        def attend(self, q, k, v, key_mask=None, query_mask=None):
            kept = (k.norm(dim=-1) > 0).all(0).all(0).nonzero()[:, 0]
            return super().attend(q, k[:, :, kept], v[:, :, kept], key_mask, query_mask)

    found = Flops().measure(workload(Selects), CASE)["flops_counted"]
    assert found == {"samples": [3 * 4 * 2 * 2 * 48 * 48 * 16], "on": "cpu"}


# Parameters and quality


def test_parameters_are_the_layers_and_stand_beside_those_of_softmax() -> None:
    class Wide(Softmax):
        def __init__(self, slot: Any) -> None:
            super().__init__(slot)
            self.more = torch.nn.Linear(64, 40)

    softmax = 4 * (64 * 64 + 64)
    assert measured(Parameters(), workload()) == {"parameters": softmax, "parameters_over_softmax": 0.0}
    found = measured(Parameters(), workload(Wide))
    assert found == {"parameters": softmax + 65 * 40, "parameters_over_softmax": pytest.approx(65 * 40 / softmax)}
    bare = measured(Parameters(), workload(Nothing, level="layer"))
    assert bare["parameters"] == softmax / 4 and bare["parameters_over_softmax"] == -0.75


def test_a_share_of_parameters_above_ten_per_cent_is_marked() -> None:
    over = Parameters().reduce("parameters_over_softmax", [{"samples": [0.101]}])
    assert over.value == 0.101 and "more than 10% above" in over.stop_reason
    assert Parameters().reduce("parameters_over_softmax", [{"samples": [0.1]}]).stop_reason == ""
    assert Parameters().reduce("parameters", [{"samples": [17]}]) == Reading(17.0)


def test_quality_has_wilsons_interval_for_hits_and_students_for_other_scores() -> None:
    scores = {"accuracy": [1.0] * 8 + [0.0] * 2, "loss": [1.0, 2.0, 3.0, 4.0, 5.0], "bits": [[4.0, 2.0], [6.0, 8.0]]}
    found = json.loads(json.dumps(Quality().measure(SimpleNamespace(scores=scores), CASE)))
    readings = {name: Quality().reduce(name, [given]) for name, given in found.items()}
    hits, loss, bits = readings["accuracy"], readings["loss"], readings["bits"]
    assert (hits.value, hits.count) == (0.8, 10)
    assert (hits.ci_low, hits.ci_high) == pytest.approx(wilson(8, 10))
    assert loss.value == 3 and (loss.ci_low, loss.ci_high) == pytest.approx(student([1, 2, 3, 4, 5]))
    assert bits.value == 1 and (bits.ci_low, bits.ci_high) == pytest.approx(student_of_ratio([4, 6], [2, 8]))
    assert Quality().applies(CASE) == {}


# The cards, and the allocator


def test_cards_equal_classes_and_planning_needs_no_torch() -> None:
    meters = {"latency": Latency, "memory": Memory, "flops": Flops, "parameters": Parameters, "quality": Quality}
    meters |= {"energy": Energy, "instructions": Instructions, "frontier": Frontier}
    assert set(registry.names("meter")) == set(meters)
    for name, cls in meters.items():
        facts = registry.card("meter", name).facts
        for fact in ("version", "environment", "processes", "pinned_allocator", "method"):
            assert facts[fact] == getattr(cls, fact)
        assert {k: tuple(v) for k, v in facts["metrics"].items()} == cls.metrics
        assert cls.method and (cls().unavailable("cpu") is None or cls in (Energy, Instructions))
    for cls in (Latency, Memory):
        assert "mps" in cls().unavailable("mps") and cls().unavailable("cuda:1") is None
    code = (
        "import sys\nfrom cab.plugins import registry\nfrom cab.contracts.case import Case\n"
        f"case = Case.of({replace(CASE, settings={'memory_limit': 1}).question()!r})\n"
        "given = {'samples': [1.0], 'window': 5.0, 'fails': None, 'probes': {}}\n"
        "for name in registry.names('meter'):\n"
        "    meter = registry.load('meter', name)(); meter.applies(case); meter.unavailable('cpu')\n"
        "    meter.reduce(next(iter(meter.metrics), 'accuracy'), [given] * 5)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pinned_allocator_maps_no_block_and_an_unpinned_one_does() -> None:
    code = (
        "import ctypes, sys, torch\nfrom cab.instruments import allocator\n"
        "pinned = sys.argv[1] == 'pinned'\n"
        "assert allocator.pin() if pinned else True\n"
        "before = allocator.mapped()\n"  # by imports
        "block = torch.ones(1 << 24)\n"
        "mapped = allocator.mapped() - before\n"
        "assert (mapped == 0) if pinned else (mapped >= 1 << 26), mapped"
    )
    for how in ("pinned", "unpinned"):
        subprocess.run([sys.executable, "-c", code, how], check=True)


@pytest.mark.parametrize("right", [0, 4])
def test_examples_that_are_all_wrong_or_all_right_leave_an_interval(right: int) -> None:
    found = Quality().reduce("accuracy", [{"samples": [(right, 4)] * 8}])
    assert (found.value, found.ci_low, found.ci_high) == (right / 4, *wilson(8 * right / 4, 8))
    assert found.ci_low != found.ci_high
