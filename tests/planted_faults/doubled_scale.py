"""Scores are scaled twice (CAB's Nystromformer)."""

from planted_faults import Twin as Softmax

BREAKS = "definition"
ALSO = {"lengths", "defaults", "bf16"}


class Twin(Softmax):
    patterns = {"NS": "native"}

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Softmax.attend(self, q, k, v, key_mask)


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return Softmax.attend(self, q * self.slot.dim**-0.5, k, v, key_mask)
