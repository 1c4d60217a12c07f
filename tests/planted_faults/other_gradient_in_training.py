"""In training the output is the same, and the gradient of the queries has the other sign."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "modes"
ALSO = set()


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if self.training:
            q = 1.5 * q.detach() - 0.5 * q
        return super().attend(q, k, v, key_mask, query_mask)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Twin.attend(self, q, k, v, key_mask, query_mask)
