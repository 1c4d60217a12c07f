"""In training the scores of later layers are twice as large."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "modes"
ALSO = set()


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(2 * q if self.training and self.slot.layer else q, k, v, key_mask, query_mask)
