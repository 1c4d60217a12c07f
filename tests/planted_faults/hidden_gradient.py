"""A straight-through term gives masked tokens a gradient, although they change nothing forward."""

from planted_faults import Twin as Softmax

BREAKS = "hidden"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        term = v if key_mask is None else self.hidden(v, ~key_mask[:, None, :, None])
        term = term.mean(2, keepdim=True)
        return super().attend(q, k, v, key_mask) + term - term.detach()

    def hidden(self, v, where):
        return v.masked_fill(where, 0.0)


class Faulty(Twin):
    def hidden(self, v, where):
        return v
