"""The key mask is ignored."""

from planted_faults import Twin

BREAKS = "padding"
ALSO = {"hidden", "padding_training", "definition"}


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v)
