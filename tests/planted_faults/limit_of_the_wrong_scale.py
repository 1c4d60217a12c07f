"""Declared to equal softmax attention whose queries are scaled by sqrt(dim), and keeps the usual scale."""

from planted_faults import NoncausalSelf

BREAKS = "limits"
ALSO = set()


class Twin(NoncausalSelf):
    """Scores are not divided by the root of the size of a head."""

    limits = ({"params": {}, "equals": "softmax", "scales": {"q": "sqrt(dim)"}},)

    def weights(self, q, k, key_mask):
        return super().weights(q * self.slot.dim**0.5, k, key_mask)


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        return NoncausalSelf.weights(self, q, k, key_mask)
