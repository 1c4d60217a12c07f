"""Byte pair encoding (Sennrich et al., arXiv 1508.07909, algorithm 1) over the bytes of words.

A word is a run of letters, of digits or of other signs, with the space before it, or white space (Radford et al.,
"Language Models are Unsupervised Multitask Learners", section 2.2). Every text has an encoding, because tokens 0 to 255
are the bytes, and decoding gives back the text.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

BYTES = 256
Merge = tuple[int, int]
_WORD = re.compile(r" ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


class BytePairs:
    """Merges in the order in which they are made: merge i makes token 256 + i of two earlier tokens."""

    def __init__(self, merges: Sequence[Merge]) -> None:
        self.merges = list(merges)
        self._rank = {pair: i for i, pair in enumerate(self.merges)}
        self._bytes = [bytes([i]) for i in range(BYTES)]
        for left, right in self.merges:
            self._bytes.append(self._bytes[left] + self._bytes[right])
        self._of_word = lru_cache(maxsize=1 << 20)(self._encode_word)

    @classmethod
    def of_texts(cls, texts: Iterable[str], size: int) -> "BytePairs":
        """Learn at most `size` - 256 merges: the most frequent pair each time, of equally frequent ones the least."""
        counted = Counter(word for text in texts for word in _WORD.findall(text))
        words = [list(word.encode()) for word in counted]
        counts = list(counted.values())
        frequency: Counter[Merge] = Counter()
        words_with: dict[Merge, set[int]] = defaultdict(set)
        for number, tokens in enumerate(words):
            for pair in zip(tokens, tokens[1:], strict=False):
                frequency[pair] += counts[number]
                words_with[pair].add(number)
        heap = [(-count, pair) for pair, count in frequency.items()]
        heapq.heapify(heap)
        merges: list[Merge] = []
        while heap and len(merges) < size - BYTES:
            count, pair = heapq.heappop(heap)
            if frequency[pair] != -count or not count:  # an old entry: the pair's frequency has changed since
                continue
            merges.append(pair)
            changed: set[Merge] = set()
            for number in words_with.pop(pair):
                old = words[number]
                new = words[number] = _merged(old, pair, BYTES + len(merges) - 1)
                for tokens, sign in ((old, -1), (new, 1)):
                    for each in zip(tokens, tokens[1:], strict=False):
                        frequency[each] += sign * counts[number]
                        changed.add(each)
                        if sign == 1:
                            words_with[each].add(number)
            for each in changed:
                heapq.heappush(heap, (-frequency[each], each))
        return cls(merges)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [token for word in _WORD.findall(text) for token in self._of_word(word)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens.

        Bytes that are no UTF-8 become the replacement character. Tokens after those of the merges have no bytes, and
        are left out: a model may have more tokens than were learnt.
        """
        return b"".join(self._bytes[token] for token in tokens if token < len(self._bytes)).decode(errors="replace")

    def _encode_word(self, word: str) -> tuple[int, ...]:
        tokens = list(word.encode())
        while len(tokens) > 1:
            rank = min(self._rank.get(pair, len(self.merges)) for pair in zip(tokens, tokens[1:], strict=False))
            if rank == len(self.merges):
                break
            tokens = _merged(tokens, self.merges[rank], BYTES + rank)
        return tuple(tokens)


def _merged(tokens: Sequence[int], pair: Merge, token: int) -> list[int]:
    """Put `token` in the place of each occurrence of the pair, from the left."""
    out: list[int] = []
    i = 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            out.append(token)
            i += 2
        else:
            out.append(tokens[i])
            i += 1
    return out
