"""Causal, but only because no value reaches any row except its own."""

from planted_faults import CausalSelf as Twin

BREAKS = "use"
ALSO = set()


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return (q * k).sum(-1, keepdim=True) * v

    def flops(self, n, m, backend="eager"):
        return 0.0
