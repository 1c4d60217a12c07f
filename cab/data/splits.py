"""Splits by content: equal examples are always in one split, and no seed changes which."""

import hashlib
from collections.abc import Mapping


def split_of(content: bytes, shares: Mapping[str, float]) -> str:
    """Return the name of the split that `content` belongs to, by its hash.

    `shares` are the splits' probabilities, which sum to 1. Another order of them is another assignment.
    """
    position = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64  # in [0, 1)
    for name, share in shares.items():
        if position < share:
            return name
        position -= share
    return name  # rounding errors may leave a little of the last share
