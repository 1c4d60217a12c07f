"""ListOps in integers, compiled: import it where examples are made, never at the top of a module (numba is slow).

An example depends on seed and index alone: its numbers are a SplitMix64 stream (Steele et al., OOPSLA 2014) of its own.
"""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

import numpy as np
from numba import njit

# tokens: 0 is padding, 1 to 10 are the digits, then the operators and the bracket that closes each of them
DIGIT, MIN, MAX, MED, SM, END = 1, 11, 12, 13, 14, 15
_GOLDEN, _A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@njit(cache=True, nogil=True, inline="always")
def _mixed(state: Any) -> Any:
    z = (state ^ (state >> np.uint64(30))) * _A
    z = (z ^ (z >> np.uint64(27))) * _B
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def fill(
    seed: int, first: int, shortest: int, longest: int, depth: int, arity: int, tokens: Any, ends: Any, values: Any
) -> None:
    """Write examples first, first + 1, ... one behind the other into `tokens`, where each ends, and its value."""
    open_arguments = np.empty(depth + 1, np.int64)
    place = 0
    for i in range(len(ends)):
        state = _mixed(_mixed(np.uint64(seed) + _GOLDEN) ^ (np.uint64(first + i) * _GOLDEN + _B))
        while True:
            # `size` is the least length that the tree can still have: what is drawn, and one token for each argument
            # and bracket that must come. The root is an operator: a digit would be too short.
            at, level = place, 0
            size: Any = 1
            open_arguments[0] = 1
            while level >= 0:
                if open_arguments[level] == 0:
                    level -= 1
                    if level >= 0:
                        tokens[at] = END
                        at += 1
                    continue
                open_arguments[level] -= 1
                state += _GOLDEN
                z = _mixed(state)
                # an operator has probability 1/4, but none is deeper than depth - 1
                if level == 0 or (z & np.uint64(3) == np.uint64(0) and level + 1 < depth):
                    tokens[at] = MIN + np.int64((z >> np.uint64(2)) & np.uint64(3))
                    count = 2 + np.int64(((z >> np.uint64(32)) * np.uint64(arity - 1)) >> np.uint64(32))
                    size += count + 1
                    if size >= longest:
                        break
                    level += 1
                    open_arguments[level] = count
                else:
                    tokens[at] = DIGIT + np.int64(((z >> np.uint64(32)) * np.uint64(10)) >> np.uint64(32))
                at += 1
            if level < 0 and size > shortest:
                break
        values[i] = value(tokens[place:at], depth)
        place = at
        ends[i] = at


@njit(cache=True, nogil=True)
def value(tokens: Any, depth: int) -> int:
    """Compute an expression: the median of an even count is the mean of the middle two, rounded down; SM is mod 10."""
    counts = np.zeros((depth + 1, 10), np.int64)  # how often each digit is among an open operator's arguments
    operators = np.zeros(depth + 1, np.int64)
    level, found = 0, 0
    for token in tokens:
        if token < MIN:
            found = token - DIGIT
        elif token < END:
            level += 1
            operators[level] = token
            counts[level] = 0
            continue
        else:
            found = _applied(operators[level], counts[level])
            level -= 1
        counts[level, found] += 1
    return found


@njit(cache=True, nogil=True)
def _applied(operator: int, counts: Any) -> int:
    if operator == SM:
        total = 0
        for digit in range(10):
            total += digit * counts[digit]
        return total % 10
    if operator == MIN or operator == MAX:
        found = 0
        for step in range(10):
            digit = 9 - step if operator == MIN else step
            if counts[digit]:
                found = digit
        return found
    number = counts.sum()
    low = high = -1
    seen = 0
    for digit in range(10):
        seen += counts[digit]
        if low < 0 and 2 * seen >= number:  # covers place (number - 1) // 2
            low = digit
        if high < 0 and seen > number // 2:
            high = digit
    return (low + high) // 2


@njit(cache=True, nogil=True)
def spell(tokens: Any, ends: Any, values: Any, names: Any, name_ends: Any, out: Any) -> int:
    """Write rows of the release's files into `out` and return their size: `( ( ( [MAX 4 ) 3 ) ] )`, tab, value.

    An operator is applied to its first argument, that to the second, and so on, and last to the bracket.
    """
    arguments = np.empty(len(tokens), np.int64)  # of each operator, in the order of their appearance
    stack = np.empty(64, np.int64)
    size = start = 0
    for row in range(len(ends)):
        number, level = 0, 0
        stack[0] = 0
        for token in tokens[start : ends[row]]:
            if token == END:
                level -= 1
                continue
            arguments[stack[level]] += 1
            if token >= MIN:
                level += 1
                number += 1
                stack[level] = number
                arguments[number] = 0
        number, level = 0, 0
        for token in tokens[start : ends[row]]:
            if MIN <= token < END:
                number += 1
                for _ in range(arguments[number] + 1):
                    out[size] = 40
                    out[size + 1] = 32
                    size += 2
                level += 1
            for k in range(name_ends[token - 1], name_ends[token]):
                out[size] = names[k]
                size += 1
            out[size] = 32
            size += 1
            if token == END:
                out[size] = 41
                out[size + 1] = 32
                size += 2
                level -= 1
            if level and not MIN <= token < END:
                out[size] = 41
                out[size + 1] = 32
                size += 2
        out[size - 1] = 9
        out[size] = 48 + values[row]
        out[size + 1] = 13
        out[size + 2] = 10
        size += 3
        start = ends[row]
    return size


@njit(cache=True, nogil=True)
def parse(text: Any, tokens: Any, ends: Any, values: Any) -> Any:
    """Read rows as `spell` writes them, with or without parentheses and carriage returns.

    Returns (rows, 0), or (rows before it, 1) where a row cannot be read.
    """
    row = at = level = place = 0
    while place < len(text):
        c = text[place]
        if c == 32 or c == 40 or c == 41:
            place += 1
        elif 48 <= c < 58:
            tokens[at] = DIGIT + c - 48
            at += 1
            place += 1
        elif c == 93:
            level -= 1
            tokens[at] = END
            at += 1
            place += 1
        elif c == 91 and place + 3 < len(text):
            a, b, d = text[place + 1], text[place + 2], text[place + 3]
            if a == 83 and b == 77:
                token, width = SM, 3
            elif a == 77 and b == 73 and d == 78:
                token, width = MIN, 4
            elif a == 77 and b == 65 and d == 88:
                token, width = MAX, 4
            elif a == 77 and b == 69 and d == 68:
                token, width = MED, 4
            else:
                return row, 1
            tokens[at] = token
            level += 1
            at += 1
            place += width
        elif c == 9 and level == 0 and place + 2 < len(text) and 48 <= text[place + 1] < 58:
            values[row] = text[place + 1] - 48
            place += 2
            if text[place] == 13:
                place += 1
            if place >= len(text) or text[place] != 10 or at == (ends[row - 1] if row else 0):
                return row, 1
            place += 1
            ends[row] = at
            row += 1
        else:
            return row, 1
        if level < 0:
            return row, 1
    return row, 0 if at == (ends[row - 1] if row else 0) else 1
