"""In training masked keys are read."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "padding_training"
ALSO = set()


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, None if self.training else key_mask, query_mask)
