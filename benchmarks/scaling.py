"""How time and peak memory of mechanisms of linear cost grow in n, and what causal forms cost beside noncausal ones.

    python benchmarks/scaling.py [NAME ...] [--patterns NS CS] [--lengths 1024 2048 4096 8192 16384] [--clock cpu]

One process with the allocator pinned, 4 heads of 64, default hyper-parameters, forward with backward. Exponents are
fitted by `cab.analysis.growth` to peak memory and to the least time of several rounds over all lengths. They may be at
most 1.15 for time and 1.1 for memory. The causal form may take at most twice the time of the noncausal one: for each
length the median ratio of runs of the two in turn is printed.
"""

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

os.environ["KINETO_LOG_LEVEL"] = "99"  # before torch is loaded: the profiler would talk

from cab.instruments import allocator  # noqa: E402

PINNED = allocator.pin()  # before the first tensor

import torch  # noqa: E402

from cab import Mechanism, Pattern, Slot  # noqa: E402
from cab.analysis.curves import CostAtLength, Curve  # noqa: E402
from cab.analysis.growth import declared_exponent, growth  # noqa: E402
from cab.attention.random_inputs import RandomInputs  # noqa: E402
from cab.meters.memory import peak_allocated  # noqa: E402
from cab.plugins import registry  # noqa: E402

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def declared(name: str, pattern: str) -> float | None:
    """Return the exponent that a card declares for a pattern, as in `O(n d^2), CS O(n log n)`, or None."""
    cost, *others = registry.card("mechanism", name).facts["cost"].split(", ")
    causal = Pattern.of(pattern).causal
    for other in others:
        where, _, cost_there = other.partition(" ")
        if where == pattern or (where == "causal" and causal):
            cost = cost_there
    return declared_exponent(cost)


def one_pass(name: str, pattern: str, n: int, batch: int) -> Callable[[], object]:
    """Return a function that runs forward and backward once."""
    slot = Slot(Pattern.of(pattern), heads=4, dim=64, max_len=n)
    torch.manual_seed(0)
    mechanism: Mechanism = registry.load("mechanism", name)(slot).eval()
    arguments = RandomInputs(0, torch.float32, torch.device("cpu")).arguments(mechanism, batch, n, n)
    leaves = [t.requires_grad_() for t in arguments.values() if t.is_floating_point()]
    leaves += mechanism.parameters()

    def call() -> object:
        out = mechanism(**arguments)
        return torch.autograd.grad(out.sum(), leaves, allow_unused=True) if out.requires_grad else out

    return call


def main() -> None:
    """Print one line for each mechanism and pattern, and the ratios of causal to noncausal at each length."""
    names = registry.names("mechanism")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mechanisms", nargs="*", default=[], help="those of linear cost by default")
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--patterns", nargs="+", default=list(Pattern.__members__))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=11, help="runs of a causal and a noncausal form in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = CLOCKS[options.clock]
    print(f"{options.threads} threads, {options.clock} clock, allocator {'pinned' if PINNED else 'not pinned'}")
    print("mechanism        pattern  time  memory   ms and MiB at each length")
    for name in options.mechanisms or names:
        patterns = [p for p in options.patterns if p in registry.card("mechanism", name).facts["patterns"]]
        passes: dict[str, dict[int, Callable[[], object]]] = {}
        for pattern in patterns:
            if not options.mechanisms and declared(name, pattern) != 1.0:
                continue
            calls = {n: one_pass(name, pattern, n, options.batch) for n in options.lengths}
            times = dict.fromkeys(calls, float("inf"))
            for turn in range(options.rounds + 1):
                for n, call in calls.items():
                    start = clock()
                    call()
                    times[n] = min(times[n], clock() - start) if turn else times[n]  # the first is a warm-up
            peaks = {n: peak_allocated(call) for n, call in calls.items()}
            passes[pattern] = calls
            exponents = [fitted(name, values) for values in (times, peaks)]
            aims = zip(("time", "memory"), exponents, (1.15, 1.1), strict=True)
            misses = [what for what, exponent, aim in aims if exponent > aim]
            cells = ", ".join(f"{times[n] * 1e3:.0f} {peaks[n] / 2**20:.0f}" for n in calls)
            missed = f"  above the aim: {', '.join(misses)}" if misses else ""
            print(f"{name:16} {pattern}      {exponents[0]:5.2f}   {exponents[1]:5.2f}   {cells}{missed}", flush=True)
        for causal, plain in (("CS", "NS"), ("CC", "NC")):
            if causal in passes and plain in passes:
                pairs = zip(passes[causal].values(), passes[plain].values(), strict=True)
                ratios = [median(ratios_of(one, other, options.pairs, clock)) for one, other in pairs]
                cells = ", ".join(f"{ratio:.2f}" for ratio in ratios)
                missed = "  above twice" if max(ratios) > 2 else ""
                print(f"{name:16} {causal}/{plain}  {cells}{missed}", flush=True)


def ratios_of(
    one: Callable[[], object], other: Callable[[], object], pairs: int, clock: Callable[[], float]
) -> list[float]:
    """Return the first call's time over the second's, of runs in turn: a drift of the machine meets both alike."""
    ratios = []
    for _ in range(pairs):
        start = clock()
        one()
        middle = clock()
        other()
        ratios.append((middle - start) / (clock() - middle))
    return ratios


def fitted(name: str, values: dict[int, float]) -> float:
    """Return the exponent of a mechanism's cost, from its values by length."""
    costs = tuple(CostAtLength(n, value, value, value) for n, value in values.items())
    fit = growth(Curve(name, "{}", "eager", {}, costs))
    assert fit is not None
    return fit.exponent


if __name__ == "__main__":
    main()
