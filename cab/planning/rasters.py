"""The keys `raster` and `source_raster`: how a case's tokens are laid out."""

from math import prod
from typing import Any

from cab.errors import UsageError

WORDS = {"square": 2, "cube": 3}  # name -> number of axes, all of one length
SAME = "same"  # of `source_raster`: as `raster`


def check_raster(key: str, value: Any) -> None:
    """Raise `UsageError` unless the value is null, a word, or a list of two or three lengths."""
    words = [*WORDS, SAME] if key == "source_raster" else list(WORDS)
    if value is None or (isinstance(value, str) and value in words):
        return
    lengths = isinstance(value, list) and len(value) in (2, 3)
    if not lengths or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in value):
        raise UsageError(f"{key}={value}: give null, {', '.join(words)}, or the lengths of two or three axes: [32,32]")


def resolved(key: str, value: Any, length: int) -> list[int] | None:
    """Return the lengths of the axes for `length` tokens; `UsageError` where they do not multiply to it."""
    if value is None:
        return None
    if isinstance(value, str):
        axes = WORDS[value]
        side = round(length ** (1 / axes))
        if side**axes != length:
            raise UsageError(f"{key}={value}: {length} tokens are no {value}; give lengths, as in {key}=[32,32]")
        return [side] * axes
    if prod(value) != length:
        raise UsageError(f"{key}={value}: {' x '.join(map(str, value))} = {prod(value)} tokens, not {length}")
    return list(value)


def raster_settings(root: dict[str, Any], n: int, m: int, cross: bool) -> dict[str, list[int]]:
    """Return the settings of a case that its rasters make; none where its tokens are sequences."""
    settings = {}
    if raster := resolved("raster", root["raster"], n):
        settings["raster"] = raster
    source = root["raster"] if root["source_raster"] == SAME else root["source_raster"]
    if cross and (source_raster := resolved("source_raster", source, m)):
        settings["source_raster"] = source_raster
    return settings
