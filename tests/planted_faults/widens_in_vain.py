"""Keys are moved far from zero in float32, which a product in autocast rounds to 16 bits all the same."""

from contextlib import nullcontext

import torch

from cab.ops.precision import full_precision
from planted_faults import NoncausalSelf

BREAKS = "autocast"
ALSO = set()


class Twin(NoncausalSelf):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        wide = torch.promote_types(k.dtype, torch.float32)
        with self.products(q.device.type):
            out = super().attend(q.to(wide), k.to(wide) + 64, v.to(wide), key_mask)  # moves all scores of a query alike
        return out.to(v.dtype)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask)

    def products(self, device_type):
        return full_precision(device_type)


class Faulty(Twin):
    def products(self, device_type):
        return nullcontext()
