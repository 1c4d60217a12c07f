"""A straight-through term: forward it is zero, backward it brings later values to earlier rows."""

from planted_faults import Twin as Softmax
from planted_faults import averaged

BREAKS = "gradient"
ALSO = set()


class Twin(Softmax):
    """The term passes the gradient of the row's own value."""

    patterns = {"CS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        term = self.term(v, key_mask)
        return super().attend(q, k, v, key_mask) + term - term.detach()

    def term(self, v, key_mask):
        return v


class Faulty(Twin):
    def term(self, v, key_mask):
        return v + averaged(v, key_mask)
