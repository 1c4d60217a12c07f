"""An exemption that no pattern needs."""

from planted_faults import Twin

BREAKS = "exemption"
ALSO = set()


class Faulty(Twin):
    exempt = {"heads": "the gate reads whole tokens"}
