"""The causal mask hides later tokens, but the selection of keys depends on later queries."""

import torch

from cab.ops.softmax import masked_softmax
from planted_faults import Twin as Softmax

BREAKS = "suffix"
ALSO = {"truncation", "training", "defaults"}  # no gradient passes through the selection


class Twin(Softmax):
    """Each query selects four keys among those that it may see."""

    patterns = {"CS": "native"}

    def weights(self, q, k, key_mask):
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        scores = (q * self.slot.dim**-0.5) @ k.transpose(-1, -2)
        return masked_softmax(scores, seen & self.selected(scores.masked_fill(~seen, -1e30), key_mask))

    def selected(self, scores, key_mask):
        return scores >= scores.topk(min(4, scores.shape[3]), -1).values[..., -1:]


class Faulty(Twin):
    def selected(self, scores, key_mask):
        positive = scores.clamp(min=0.0)
        totals = (positive if key_mask is None else positive * key_mask[:, None, :, None]).sum(2, keepdim=True)
        return totals >= totals.topk(min(4, totals.shape[3]), -1).values[..., -1:]
