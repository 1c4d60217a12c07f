"""`rotates` is declared, so the layer leaves queries and keys as they are; the mechanism does so too."""

from planted_faults import CausalSelf as Twin

BREAKS = "rotary"
ALSO = set()


class Faulty(Twin):
    rotates = True
