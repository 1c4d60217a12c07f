"""Head 1 reads the queries of head 0, and head 0 nothing of head 1."""

import torch

from planted_faults import NoncausalSelf as Twin

BREAKS = "heads"
ALSO = set()


class Faulty(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        q = torch.cat([q[:, :1], q[:, 1:] + q[:, :1]], 1)
        return super().attend(q, k, v, key_mask, query_mask)
