"""Case ids as people read and type them: the first characters, as many as tell them apart."""

from collections.abc import Iterable

_LEAST = 8  # characters


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return case id -> its beginning, of one length for all, by which no two of `ids` are confused."""
    every = set(ids)
    length = _LEAST
    while len({each[:length] for each in every}) < len(every):
        length += 1
    return {each: each[:length] for each in every}
