"""Values are shifted far from zero and back, and 16-bit numbers lose most of their digits on the way."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "bf16"
ALSO = set()


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v + 64, key_mask) - 64

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Twin.attend(self, q, k, v, key_mask)
