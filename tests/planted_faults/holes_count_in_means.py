"""The mean over a raster divides by all places, holes included; on a sequence by the real tokens."""

from planted_faults import OnRasters, masked_mean

BREAKS = "holes"
ALSO = {"definition", "defaults", "lengths", "bf16"}


class Twin(OnRasters):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask) + self.mean(v, key_mask)

    def mean(self, v, key_mask):
        return masked_mean(v, key_mask)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return OnRasters.attend(self, q, k, v, key_mask, query_mask) + masked_mean(v, key_mask)


class Faulty(Twin):
    def mean(self, v, key_mask):
        if not self.slot.source_raster or key_mask is None:
            return masked_mean(v, key_mask)
        return (v * key_mask[:, None, :, None]).mean(2, keepdim=True)
