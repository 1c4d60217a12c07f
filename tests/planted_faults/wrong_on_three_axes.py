"""On two axes it is right; on three it forgets the last one."""

from planted_faults import OnRasters as Twin

BREAKS = "definition"
ALSO = {"defaults", "holes", "lengths", "bf16"}


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        out = super().attend(q, k, v, key_mask, query_mask)
        return out if not self.slot.raster or len(self.slot.raster) < 3 else out * 0.9

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Twin.attend(self, q, k, v, key_mask, query_mask)
