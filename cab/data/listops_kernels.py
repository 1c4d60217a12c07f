"""Compiled kernels of ListOps: generate, evaluate, format and parse expressions, in integers alone.

Each example draws from a SplitMix64 stream (Steele et al., OOPSLA 2014) of its own, seeded by the seed and its index.
Import this module inside the functions that use it: importing numba is slow. The generator is not shared with other
modules, because numba's cache does not notice that a function of another file has changed.
"""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

import numpy as np
from numba import njit

# token ids: 0 is padding, 1 to 10 are the digits, 11 to 14 the operators, 15 the bracket that closes an operator
DIGIT, MIN, MAX, MED, SM, END = 1, 11, 12, 13, 14, 15
_TAB, _LF, _CR, _SPACE, _OPEN, _CLOSE, _ZERO, _NINE, _OPERATOR, _BRACKET = b"\t\n\r ()09[]"
_LETTER_A, _LETTER_D, _LETTER_E, _LETTER_I, _LETTER_M, _LETTER_N, _LETTER_S, _LETTER_X = b"ADEIMNSX"
_GOLDEN, _A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@njit(cache=True, nogil=True, inline="always")
def _mix(state: Any) -> Any:
    """SplitMix64's output function."""
    z = (state ^ (state >> np.uint64(30))) * _A
    z = (z ^ (z >> np.uint64(27))) * _B
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def generate(
    seed: int, first: int, shortest: int, longest: int, depth: int, arity: int, tokens: Any, ends: Any, values: Any
) -> None:
    """Generate the examples `first`, `first + 1`, ... of a seed, one for each element of `ends`.

    Writes all their tokens into `tokens`, where each ends into `ends`, and its value into `values`. An expression whose
    length is not between `shortest` and `longest` is drawn anew.
    """
    open_arguments = np.empty(depth + 1, np.int64)  # of the operator at each level: arguments still to be drawn
    start = 0
    for i in range(len(ends)):
        state = _mix(_mix(np.uint64(seed) + _GOLDEN) ^ (np.uint64(first + i) * _GOLDEN + _B))
        while True:
            # `size` is the least length that the tree can still have: what is drawn, and one token for each argument
            # and bracket that must come. The root is an operator: a digit would be too short.
            end, level = start, 0
            size: Any = 1
            open_arguments[0] = 1
            while level >= 0:
                if open_arguments[level] == 0:
                    level -= 1
                    if level >= 0:
                        tokens[end] = END
                        end += 1
                    continue
                open_arguments[level] -= 1
                state += _GOLDEN
                z = _mix(state)
                # an operator has probability 1/4, but none is deeper than depth - 1
                if level == 0 or (z & np.uint64(3) == np.uint64(0) and level + 1 < depth):
                    tokens[end] = MIN + np.int64((z >> np.uint64(2)) & np.uint64(3))
                    count = 2 + np.int64(((z >> np.uint64(32)) * np.uint64(arity - 1)) >> np.uint64(32))
                    size += count + 1
                    if size >= longest:
                        break
                    level += 1
                    open_arguments[level] = count
                else:
                    tokens[end] = DIGIT + np.int64(((z >> np.uint64(32)) * np.uint64(10)) >> np.uint64(32))
                end += 1
            if level < 0 and size > shortest:
                break
        values[i] = evaluate(tokens[start:end], depth)
        start = end
        ends[i] = end


@njit(cache=True, nogil=True)
def evaluate(tokens: Any, depth: int) -> int:
    """Return an expression's value. SM is the sum modulo 10.

    The median of an even number of arguments is the mean of the middle two, rounded down.
    """
    counts = np.zeros((depth + 1, 10), np.int64)  # of each digit among the arguments of the operator at each level
    operators = np.zeros(depth + 1, np.int64)
    level, value = 0, 0
    for token in tokens:
        if token < MIN:
            value = token - DIGIT
        elif token < END:
            level += 1
            operators[level] = token
            counts[level] = 0
            continue
        else:
            value = _apply(operators[level], counts[level])
            level -= 1
        counts[level, value] += 1
    return value


@njit(cache=True, nogil=True)
def _apply(operator: int, counts: Any) -> int:
    """Apply an operator to arguments of which `counts[digit]` are a digit."""
    if operator == SM:
        total = 0
        for digit in range(10):
            total += digit * counts[digit]
        return total % 10
    if operator == MIN or operator == MAX:
        extreme = 0
        for step in range(10):
            digit = 9 - step if operator == MIN else step
            if counts[digit]:
                extreme = digit
        return extreme
    number = counts.sum()
    low = high = -1  # the digits at the sorted positions (number - 1) // 2 and number // 2
    cumulative = 0
    for digit in range(10):
        cumulative += counts[digit]
        if low < 0 and 2 * cumulative >= number:
            low = digit
        if high < 0 and cumulative > number // 2:
            high = digit
    return (low + high) // 2


@njit(cache=True, nogil=True)
def format_rows(tokens: Any, ends: Any, values: Any, names: Any, name_ends: Any, out: Any) -> int:
    """Write rows of the release's files into `out`, and return their size: `( ( ( [MAX 4 ) 3 ) ] )`, tab, value.

    The parentheses are those of a binary tree: an operator is joined with its first argument, the result with the
    second, and so on, and at last with the bracket. `names` are the bytes of all token names, `name_ends` where each
    ends.
    """
    arguments = np.empty(len(tokens), np.int64)  # of each operator, in the order of their appearance: how many
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
                    out[size] = _OPEN
                    out[size + 1] = _SPACE
                    size += 2
                level += 1
            for k in range(name_ends[token - 1], name_ends[token]):
                out[size] = names[k]
                size += 1
            out[size] = _SPACE
            size += 1
            if token == END:
                out[size] = _CLOSE
                out[size + 1] = _SPACE
                size += 2
                level -= 1
            if level and not MIN <= token < END:
                out[size] = _CLOSE
                out[size + 1] = _SPACE
                size += 2
        out[size - 1] = _TAB
        out[size] = _ZERO + values[row]
        out[size + 1] = _CR
        out[size + 2] = _LF
        size += 3
        start = ends[row]
    return size


@njit(cache=True, nogil=True)
def parse_rows(text: Any, tokens: Any, ends: Any, values: Any) -> Any:
    """Read rows as `format_rows` writes them, with or without parentheses and carriage returns.

    Returns (rows, 0), or (rows before the first one that cannot be read, 1).
    """
    row = end = level = i = 0  # `end` of the tokens, and `i` in the text
    while i < len(text):
        c = text[i]
        if c == _SPACE or c == _OPEN or c == _CLOSE:
            i += 1
        elif _ZERO <= c <= _NINE:
            tokens[end] = DIGIT + c - _ZERO
            end += 1
            i += 1
        elif c == _BRACKET:
            level -= 1
            tokens[end] = END
            end += 1
            i += 1
        elif c == _OPERATOR and i + 3 < len(text):
            a, b, d = text[i + 1], text[i + 2], text[i + 3]
            if a == _LETTER_S and b == _LETTER_M:
                token, width = SM, 3
            elif a == _LETTER_M and b == _LETTER_I and d == _LETTER_N:
                token, width = MIN, 4
            elif a == _LETTER_M and b == _LETTER_A and d == _LETTER_X:
                token, width = MAX, 4
            elif a == _LETTER_M and b == _LETTER_E and d == _LETTER_D:
                token, width = MED, 4
            else:
                return row, 1
            tokens[end] = token
            level += 1
            end += 1
            i += width
        elif c == _TAB and level == 0 and i + 2 < len(text) and _ZERO <= text[i + 1] <= _NINE:
            values[row] = text[i + 1] - _ZERO
            i += 2
            if text[i] == _CR:
                i += 1
            if i >= len(text) or text[i] != _LF or end == (ends[row - 1] if row else 0):
                return row, 1
            i += 1
            ends[row] = end
            row += 1
        else:
            return row, 1
        if level < 0:
            return row, 1
    return row, 0 if end == (ends[row - 1] if row else 0) else 1
