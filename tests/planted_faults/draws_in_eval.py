"""Keys are visited in a random order, in eval mode too."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "randomness"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        order = self.order(k.shape[2])
        return super().attend(q, k[:, :, order], v[:, :, order], None if key_mask is None else key_mask[:, order])

    def order(self, m):
        return torch.randperm(m) if self.training else torch.arange(m)


class Faulty(Twin):
    def order(self, m):
        return torch.randperm(m)
