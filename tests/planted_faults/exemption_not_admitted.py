"""An exemption from a law that takes none: if it were ignored, its author would not notice."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "card"
ALSO = set()


class Faulty(Twin):
    exempt = {"suffix": "it looks ahead a little"}
