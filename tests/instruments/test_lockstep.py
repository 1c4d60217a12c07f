"""Samples in turn: their order, and that a drift of the machine cancels in their ratios."""

from math import log

from cab.instruments.timers.lockstep import in_turn
from cab.intervals import balanced_median


class Machine:
    """A clock, and calls that take simulated time on a machine that becomes slower and slower."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now, self.drift, self.order = 0, drift, ""

    def call(self, name: str, nanoseconds: float) -> None:
        self.order += name
        self.now += round(nanoseconds * (1 + self.drift * self.now / 1e9))

    def clock(self) -> int:
        return self.now


def test_the_order_is_flipped_from_pair_to_pair() -> None:
    machine = Machine()
    in_turn(lambda: machine.call("a", 5e6), lambda: machine.call("b", 5e6), machine.clock)
    sampling = machine.order[-8:]
    assert sampling in ("abbaabba", "baabbaab")


def test_whatever_comes_first_in_a_pair_follows_a_sample_of_its_own() -> None:
    def call(name: str) -> None:  # half as long where the same call was the last, as with warm caches
        machine.call(name, 3e6 if machine.order.endswith(name) else 6e6)

    machine = Machine()
    timing = in_turn(lambda: call("a"), lambda: call("b"), machine.clock)
    for a, b, flipped in zip(timing.first, timing.second, timing.flipped, strict=True):
        assert b / a == (0.5 if flipped else 2)
    assert len(timing.flipped) == 24 and sum(timing.flipped) == 12
    ratios = [log(b / a) for a, b in zip(timing.first, timing.second, strict=True)]
    assert abs(balanced_median(ratios, timing.flipped)) < 1e-9


def test_a_drift_cancels_in_the_ratios() -> None:
    machine = Machine(drift=2.0)  # three times slower after a second
    timing = in_turn(lambda: machine.call("a", 3e6), lambda: machine.call("b", 2e6), machine.clock)
    ratios = [a / b for a, b in zip(timing.first, timing.second, strict=True)]
    assert timing.first[-1] > 1.2 * timing.first[0]
    assert all(abs(ratio / 1.5 - 1) < 0.02 for ratio in ratios)


def test_short_calls_are_repeated_and_long_ones_get_few_samples() -> None:
    machine = Machine()
    timing = in_turn(lambda: machine.call("a", 1e4), lambda: machine.call("b", 1e6), machine.clock)
    assert timing.iterations == (200, 2) and len(timing.first) == len(timing.second) == 24
    slow = in_turn(lambda: machine.call("a", 1e9), lambda: machine.call("b", 1e6), machine.clock)
    assert len(slow.first) == len(slow.second) == 4
