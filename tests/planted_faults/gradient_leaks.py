"""A straight-through term is zero forward, and passes gradients from earlier rows to later values backward."""

from planted_faults import Twin as Softmax
from planted_faults import masked_mean

BREAKS = "gradient"
ALSO = set()


class Twin(Softmax):
    """The term passes a gradient only to the row's own value."""

    patterns = {"CS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        term = self.term(v, key_mask)
        return super().attend(q, k, v, key_mask) + term - term.detach()

    def term(self, v, key_mask):
        return v


class Faulty(Twin):
    def term(self, v, key_mask):
        return v + masked_mean(v, key_mask)
