"""ROUGE (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004): overlap of a summary and a reference.

Words are runs of the letters a to z and of digits, in lower case, without stemming.
"""

import re
from collections import Counter
from collections.abc import Sequence

_SEPARATOR = re.compile(r"[^a-z0-9]+")


def rouge(summary: str, reference: str) -> dict[str, float]:
    """Return the F-measures of common words, common pairs of words, and the longest common subsequence of words."""
    ours, theirs = words(summary), words(reference)
    longest = common_subsequence(ours, theirs)
    return {
        "rouge1": _common_ngrams(ours, theirs, 1),
        "rouge2": _common_ngrams(ours, theirs, 2),
        "rougeL": _f_measure(longest, len(ours), len(theirs)),
    }


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return [word for word in _SEPARATOR.split(text.lower()) if word]


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence (Hyyrö, 2004: one bit of an integer a word of `a`)."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(a)) - 1
    open_ = every  # the places that no common subsequence so far ends a step at
    for word in b:
        matches = open_ & places.get(word, 0)
        open_ = ((open_ + matches) | (open_ - matches)) & every
    return len(a) - open_.bit_count()


def _common_ngrams(ours: Sequence[str], theirs: Sequence[str], n: int) -> float:
    counts = [Counter(tuple(each[i : i + n]) for i in range(len(each) - n + 1)) for each in (ours, theirs)]
    return _f_measure((counts[0] & counts[1]).total(), counts[0].total(), counts[1].total())


def _f_measure(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0
