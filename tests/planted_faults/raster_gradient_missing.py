"""On a raster the keys receive no gradient."""

from planted_faults import OnRasters as Twin

BREAKS = "learning"
ALSO = {"definition"}


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k.detach() if self.slot.raster else k, v, key_mask, query_mask)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask)
