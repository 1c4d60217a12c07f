"""Keys are shifted far from zero in float32, but under autocast the product rounds them to 16 bits."""

from contextlib import nullcontext

import torch

from cab.ops.precision import full_precision
from planted_faults import NoncausalSelf

BREAKS = "autocast"
ALSO = set()


class Twin(NoncausalSelf):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        float32 = torch.promote_types(k.dtype, torch.float32)
        with self.product_context(q.device.type):
            out = super().attend(
                q.to(float32), k.to(float32) + 64, v.to(float32), key_mask
            )  # shifts all scores of a query alike
        return out.to(v.dtype)

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask)

    def product_context(self, device_type):
        return full_precision(device_type)


class Faulty(Twin):
    def product_context(self, device_type):
        return nullcontext()
