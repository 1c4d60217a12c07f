"""In training the mean of the batch before is added, and nothing of it is in the saved state."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "batch_training"
ALSO = set()


class Faulty(Twin):
    before = None

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        out = super().attend(q, k, v, key_mask, query_mask)
        if self.training:
            if self.before is not None:
                out = out + self.before
            self.before = float(v.detach().mean())
        return out

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Twin.attend(self, q, k, v, key_mask, query_mask)
