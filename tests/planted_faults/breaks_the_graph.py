"""Branches on a value, so that it is not one graph for a compiler, and cannot run on meta tensors."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "compile"
ALSO = {"meta"}


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if v.abs().max().item() == 0.0:
            return v * 0.0
        return super().attend(q, k, v, key_mask)
