"""Graded leaky, and leaks nothing."""

from planted_faults import Twin as Softmax
from planted_faults import averaged

BREAKS = "leaks"
ALSO = set()


class Twin(Softmax):
    """Leaks, as it says."""

    patterns = {"CS": "leaky"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask) + averaged(v, key_mask)


class Faulty(Softmax):
    patterns = {"CS": "leaky"}
