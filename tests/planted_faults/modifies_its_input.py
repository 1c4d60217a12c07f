"""Masked keys are with_zeros in the caller's tensor."""

from planted_faults import Twin as Softmax

BREAKS = "untouched"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if key_mask is not None:
            k = self.with_zeros(k, ~key_mask[:, None, :, None])
        return super().attend(q, k, v, key_mask)

    def with_zeros(self, k, where):
        return k.masked_fill(where, 0.0)


class Faulty(Twin):
    def with_zeros(self, k, where):
        k.data.masked_fill_(where, 0.0)
        return k
