"""Declared causal, but computes without a causal mask (CAB's Performer)."""

from cab import Pattern
from cab.ops.softmax import masked_softmax
from planted_faults import Twin

BREAKS = "suffix"
ALSO = {"truncation", "gradient", "training", "defaults"}


class Faulty(Twin):
    patterns = {"CS": "native"}

    def weights(self, q, k, key_mask):
        assert self.slot.pattern is Pattern.CS
        seen = None if key_mask is None else key_mask[:, None, None, :]
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen)
