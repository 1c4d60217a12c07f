"""From the 51st token on, the selection of keys depends on later queries: beyond the laws' short lengths."""

import torch

from planted_faults.selection_looks_ahead import Faulty as Early
from planted_faults.selection_looks_ahead import Twin

BREAKS = "defaults"
ALSO = set()


class Faulty(Twin):
    def selected(self, scores, key_mask):
        honest = super().selected(scores, key_mask)
        if scores.shape[2] <= 50:
            return honest
        late = torch.arange(scores.shape[2], device=scores.device)[:, None] >= 50
        return torch.where(late, Early.selected(self, scores, key_mask), honest)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Twin(self.slot).attend(q, k, v, key_mask, query_mask)
