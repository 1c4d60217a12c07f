"""Values are centred where there is a mask, and not where there is none."""

from planted_faults import Twin as Softmax
from planted_faults import masked_mean

BREAKS = "mask"
ALSO = {"definition"}


class Twin(Softmax):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v - self.centre(v, key_mask), key_mask)

    def centre(self, v, key_mask):
        return masked_mean(v, key_mask)


class Faulty(Twin):
    def centre(self, v, key_mask):
        return 0.0 if key_mask is None else masked_mean(v, key_mask)
