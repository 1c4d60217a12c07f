"""Merges heads and batch by `view`, which fails for heads that a layer has transposed."""

from planted_faults import Twin as Softmax

BREAKS = "layout"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, self.merged(k).reshape(k.shape), v, key_mask)

    def merged(self, k):
        return k.reshape(-1, *k.shape[2:])


class Faulty(Twin):
    def merged(self, k):
        return k.view(-1, *k.shape[2:])
