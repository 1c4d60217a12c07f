"""Declared exact, but scales the scores twice."""

from planted_faults import Twin as Softmax

BREAKS = "exact"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}
    exact = True


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q * self.slot.dim**-0.5, k, v, key_mask)
