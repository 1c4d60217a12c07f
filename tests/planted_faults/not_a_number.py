"""A row of minus infinity gives NaN in softmax: replaced by zero forward, but not backward."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "empty"
ALSO = {"definition", "autocast"}


class Twin(Softmax):
    patterns = {"NS": "native"}

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Softmax.attend(self, q, k, v, key_mask)


class Faulty(Twin):
    def weights(self, q, k, key_mask):
        scores = (q * self.slot.dim**-0.5) @ k.transpose(-1, -2)
        if key_mask is not None:
            real = key_mask[:, None, None, :]
            scores = scores + torch.zeros_like(real, dtype=scores.dtype).masked_fill(~real, -torch.inf)
        return scores.softmax(-1).nan_to_num()

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return Softmax.weights(self, q, k, key_mask) @ v
