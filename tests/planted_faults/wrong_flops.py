"""The closed form leaves out the masked half of the scores, which the code does compute."""

from planted_faults import CausalSelf as Twin

BREAKS = "flops"
ALSO = {"meta"}


class Faulty(Twin):
    def flops(self, n, m, backend="eager"):
        return super().flops(n, m) / 2
