"""Its slopes are right where the number of heads is a power of two, and wrong for three."""

import torch

from cab.ops.softmax import masked_softmax
from planted_faults import NoncausalSelf

BREAKS = "definition"
ALSO = set()


class Twin(NoncausalSelf):
    """A bias that falls with the distance, as steeply as 2^(-8 h / heads) in head h."""

    def slopes(self, of):
        heads = self.slot.heads
        return 2 ** (-8 * torch.arange(1, heads + 1, dtype=of.dtype, device=of.device) / heads)

    def biased(self, q, k, v, key_mask, slopes):
        place = torch.arange(q.shape[2], device=q.device)
        scores = (q * self.slot.dim**-0.5) @ k.mT - slopes[:, None, None] * (place[:, None] - place).abs()
        return masked_softmax(scores, None if key_mask is None else key_mask[:, None, None]) @ v

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return self.biased(q, k, v, key_mask, self.slopes(q))

    def reference(self, q, k, v):
        return self.biased(q, k, v, None, Twin.slopes(self, q))


class Faulty(Twin):
    def slopes(self, of):
        heads = self.slot.heads
        base = 1 << (heads - 1).bit_length()  # the next power of two
        return 2 ** (-8 * torch.arange(1, heads + 1, dtype=of.dtype, device=of.device) / base)
