"""The closed form counts the masked half as saved, and the code computes it."""

from planted_faults import CausalSelf as Twin

BREAKS = "flops"
ALSO = {"meta"}


class Faulty(Twin):
    def flops(self, n, m, backend="eager"):
        return super().flops(n, m) / 2
