"""On a raster the closed form says ten times what is executed."""

from planted_faults import OnRasters as Twin

BREAKS = "flops"
ALSO = {"meta"}


class Faulty(Twin):
    def flops(self, n, m, backend="eager"):
        return super().flops(n, m) * (10 if self.slot.raster else 1)
