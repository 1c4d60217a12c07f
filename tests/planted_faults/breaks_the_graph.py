"""Looks at a value while it computes, so no compiler takes it whole, and no meta tensor runs through it."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "compile"
ALSO = {"meta"}


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if v.abs().max().item() == 0.0:
            return v * 0.0
        return super().attend(q, k, v, key_mask)
