"""Graded leaky, although it does not leak."""

from planted_faults import Twin as Softmax
from planted_faults import masked_mean

BREAKS = "leaks"
ALSO = set()


class Twin(Softmax):
    """Leaks, as its grade says."""

    patterns = {"CS": "leaky"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask) + masked_mean(v, key_mask)


class Faulty(Softmax):
    patterns = {"CS": "leaky"}
