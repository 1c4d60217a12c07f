"""Streaming shifts the values in the state far from zero and back, which costs 16-bit numbers most of their digits."""

from planted_faults.state_differs import Twin

BREAKS = "bf16"
ALSO = set()


class Faulty(Twin):
    def new_state(self, keys, values, real):
        return keys, (values + 64) - 64, real
