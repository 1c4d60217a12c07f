"""An exemption from a law that takes none, which nobody would notice if it were passed over."""

from planted_faults import NoncausalSelf as Twin

BREAKS = "card"
ALSO = set()


class Faulty(Twin):
    exempt = {"suffix": "it looks ahead a little"}
