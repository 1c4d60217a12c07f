"""Splits that depend on an example's content alone: equal examples are never apart, and no seed moves one."""

import hashlib
from collections.abc import Mapping


def part(content: bytes, shares: Mapping[str, float]) -> str:
    """Return the name of the split that `content` falls into; the shares add up to 1, their order counts."""
    place = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return name  # the rounding of the last share
