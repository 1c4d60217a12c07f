"""The first sample's mask hides keys in all: seen where that sample is the masked one, as causality hides a tail."""

from planted_faults import CausalSelf as Twin

BREAKS = "padding"
ALSO = set()


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        return super().weights(q, k, None if key_mask is None else key_mask[:1])
