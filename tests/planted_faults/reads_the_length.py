"""A temperature of log n in a causal pattern: a row depends on the number of later tokens."""

import math

from planted_faults import Twin as Softmax

BREAKS = "truncation"
ALSO = {"defaults"}


class Twin(Softmax):
    """Takes the length from the slot."""

    patterns = {"CS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q * self.temperature(q, key_mask), k, v, key_mask)

    def temperature(self, q, key_mask):
        return math.log(self.slot.max_len)


class Faulty(Twin):
    def temperature(self, q, key_mask):
        count = q.new_full((1, 1), q.shape[2]) if key_mask is None else key_mask.sum(1, keepdim=True)
        return count.to(q.dtype).log1p()[:, :, None, None]
