"""The closed form of a backend leaves out the masked half of the scores, which it computes as eager does."""

from planted_faults import CausalSelf

BREAKS = "flops"
ALSO = set()


class Twin(CausalSelf):
    def attend_fast(self, q, k, v, key_mask=None, query_mask=None):
        return self.attend(q, k, v, key_mask, query_mask)


class Faulty(Twin):
    def flops(self, n, m, backend="eager"):
        return super().flops(n, m) / (2 if backend == "fast" else 1)
