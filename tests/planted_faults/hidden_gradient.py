"""A straight-through term gives masked tokens a gradient, although they change nothing forward."""

from planted_faults import Twin as Softmax
from planted_faults import masked_mean

BREAKS = "hidden"
ALSO = {"definition"}  # whose gradients are of real tokens alone


class Twin(Softmax):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        term = masked_mean(v, key_mask) if key_mask is None else self.pulled(v, key_mask)
        return super().attend(q, k, v, key_mask) + term - term.detach()

    def pulled(self, v, key_mask):
        return masked_mean(v, key_mask)


class Faulty(Twin):
    def pulled(self, v, key_mask):
        return v.mean(2, keepdim=True)
