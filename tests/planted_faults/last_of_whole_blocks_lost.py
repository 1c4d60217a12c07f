"""The tail is cut off by its length, which is none where n is a multiple of the block: the last block is lost there."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "lengths"
ALSO = set()


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if k.shape[2] % 32 == 0:
            k, v = k[:, :, :-16], v[:, :, :-16]
            key_mask = None if key_mask is None else key_mask[:, :-16]
        return super().attend(q, k, v, key_mask, query_mask)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Twin.attend(self, q, k, v, key_mask, query_mask)
