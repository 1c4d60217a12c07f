"""Creates a table on the CPU, whatever the device of the inputs."""

import torch

from planted_faults import Twin as Softmax

BREAKS = "meta"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v * self.table(v), key_mask)

    def table(self, v):
        return torch.linspace(1, 2, v.shape[3], dtype=v.dtype, device=v.device)


class Faulty(Twin):
    def table(self, v):
        return torch.linspace(1, 2, v.shape[3], dtype=v.dtype)
