"""Where a mechanism starts to win, and how its costs grow: read from measured rows. Imports no torch."""

from cab.efficiency.growth import Growth, declared_exponent, growths
from cab.efficiency.length import Efficiency, efficiency_length, efficiency_length_cab, efficiency_lengths

__all__ = [
    "Efficiency",
    "Growth",
    "declared_exponent",
    "efficiency_length",
    "efficiency_length_cab",
    "efficiency_lengths",
    "growths",
]
