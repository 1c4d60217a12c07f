"""What `cab list` selects: by kind, by what a mechanism's card says, and by words that are searched for."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cab.contracts.pattern import Pattern
from cab.contracts.rasters import layouts
from cab.contracts.reads import resolve_inputs
from cab.errors import UsageError, unknown
from cab.plugins import registry
from cab.plugins.cards import Card

KINDS = ("mechanisms", "tasks", "meters", "grids", "titles")
COSTS = ("constant", "linear", "quadratic")


@dataclass
class Selection:
    """What was asked for: one of KINDS or "", tests that a mechanism's card passes, and words in lower case."""

    kind: str = ""
    tests: list[Callable[[Card], bool]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def narrowed(self) -> bool:
        """Say whether less than everything was asked for."""
        return bool(self.tests or self.words)

    def kinds(self) -> tuple[str, ...]:
        """Return which of KINDS to list: keys are the mechanisms' own, and titles are listed when they are sought."""
        if self.kind:
            return (self.kind,)
        return ("mechanisms",) if self.tests else KINDS if self.words else KINDS[:-1]

    def cards(self, kind: str) -> Iterator[tuple[str, Card | UsageError]]:
        """Yield name and card, or what is wrong with it, of the selected plug-ins of a kind ("mechanism")."""
        for name, card in registry.cards_of(kind).items():
            if isinstance(card, UsageError):
                if not self.narrowed:
                    yield name, card
            elif all(test(card) for test in self.tests):
                if not self.words or self.has_words(f"{name} {card.doc} {card.facts}"):
                    yield name, card

    def has_words(self, text: str) -> bool:
        """Say whether every word that is searched for begins a word of the text."""
        return all(re.search(rf"(?<![a-z0-9]){re.escape(word)}", text.lower()) for word in self.words)


def selection(arguments: list[str]) -> Selection:
    """Read the arguments of `cab list`: a kind, KEY=VALUE, and words to search for.

    Raises `UsageError` for a key that is unknown, a value that is not accepted, and keys of another kind.
    """
    asked = Selection()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals:
            asked.tests.append(_test(key, value))
        elif argument in KINDS and not asked.kind:
            asked.kind = argument
        elif f"{argument}s" in KINDS:
            raise unknown("kind", argument, KINDS)
        else:
            asked.words.append(argument.lower())
    if asked.tests and asked.kind not in ("", "mechanisms"):
        raise UsageError(f"KEY=VALUE selects mechanisms, not {asked.kind}; words search in all of them")
    return asked


def grades(card: Card) -> dict[str, str]:
    """Return pattern -> a mechanism's grade, or - where it refuses the pattern."""
    patterns = card.facts["patterns"]
    if not isinstance(patterns, dict):  # a wrapper, which has the patterns of the mechanism inside
        return dict.fromkeys(Pattern.__members__, "as inner")
    return {name: patterns.get(name, "-") for name in Pattern.__members__}


def growth(cost: str) -> str:
    """Say how a card's cost grows with the number of tokens: one of COSTS, or "" where it gives no formula to read.

    Of several formulas the steepest counts, and n log n counts as linear. n and m are numbers of tokens, every other
    letter is a constant; as an exponent of n it counts as 2.

    >>> growth("O((n + m) d^2)"), growth("O(n w d), CS O(n (w + n / c) d)")
    ('linear', 'quadratic')
    """
    try:
        degrees = [_degree(formula) for formula in _formulas(cost)]
    except IndexError:  # a user's card may hold anything
        return ""
    return COSTS[min(max(degrees), 2)] if degrees else ""


def _test(key: str, value: str) -> Callable[[Card], bool]:
    tests: dict[str, Callable[[str], Callable[[Card], bool]]] = {
        "pattern": _supports,
        "streams": lambda value: _yes_or_no("streams", value, lambda card: "step" in card.methods),
        "exact": lambda value: _yes_or_no("exact", value, lambda card: bool(card.facts["exact"])),
        "grouped": lambda value: _yes_or_no("grouped", value, lambda card: bool(card.facts["grouped"])),
        "grade": _has_grade,
        "cost": _costs,
        "backend": lambda value: lambda card: value in card.backends,
        "task": _goes_with_task,
    }
    if key not in tests:
        raise unknown("key", key, tests, "Words without = are searched for.")
    return tests[key](value)


def _supports(value: str) -> Callable[[Card], bool]:
    """Select what has every pattern of a list, wrappers left out: theirs depend on what is inside."""
    patterns = value.split(",")
    for pattern in patterns:
        if pattern not in Pattern.__members__:
            raise unknown("pattern", pattern, Pattern.__members__)
    return lambda card: all(grades(card)[pattern] not in ("-", "as inner") for pattern in patterns)


def _has_grade(value: str) -> Callable[[Card], bool]:
    accepted = ("native", "extension", "leaky")
    if value not in accepted:
        raise unknown("grade", value, accepted)
    return lambda card: value in grades(card).values()


def _yes_or_no(key: str, value: str, test: Callable[[Card], bool]) -> Callable[[Card], bool]:
    if value not in ("yes", "no"):
        raise unknown(f"value of {key}", value, ("yes", "no"))
    return lambda card: test(card) == (value == "yes")


def _costs(value: str) -> Callable[[Card], bool]:
    if value not in COSTS:
        raise unknown("cost", value, COSTS)
    return lambda card: growth(card.facts["cost"]) == value


def _goes_with_task(name: str) -> Callable[[Card], bool]:
    """Select what a task has a slot, a layout and all inputs for, at the usual hyper-parameters."""
    task = registry.card("task", name)
    axes = {entry[0] if isinstance(entry, list | tuple) else entry for entry in task.facts["rasters"]}
    offered = ("x", "y", *task.facts["inputs"])

    def goes(card: Card) -> bool:
        for pattern in task.facts["slots"]:
            if grades(card)[pattern] in ("-", "as inner"):
                continue
            declared = card.facts["rasters"], card.facts["source_rasters"]
            accepted = layouts(*declared, Pattern.of(pattern), card.params)
            reads = resolve_inputs(card.facts["inputs"], card.params, Pattern.of(pattern))
            if not task.facts["trains"]:  # it is timed on any layout, with random inputs
                return True
            fits = (1, 1) in accepted or any((n, n) in accepted for n in axes)
            if fits and all(each in offered for each in reads):
                return True
        return False

    return goes


def _formulas(cost: str) -> Iterator[str]:
    """Yield what stands between the brackets of each O(...)."""
    for match in re.finditer(r"O\(", cost):
        depth, end = 1, match.end()
        while depth and end < len(cost):
            depth += {"(": 1, ")": -1}.get(cost[end], 0)
            end += 1
        yield cost[match.end() : end - 1]


def _degree(formula: str) -> int:
    """Return the highest power of n and m in a formula: products are written side by side, logarithms count 0."""
    symbols = re.findall(r"log|\w+|[-+/^()]", formula)

    def total(at: int) -> tuple[int, int]:
        degree, at = product(at)
        while at < len(symbols) and symbols[at] in "+-":
            term, at = product(at + 1)
            degree = max(degree, term)
        return degree, at

    def product(at: int) -> tuple[int, int]:
        degree, sign = 0, 1
        while at < len(symbols) and symbols[at] not in ("+", "-", ")"):
            if symbols[at] == "/":
                sign, at = -1, at + 1
                continue
            power, at = factor(at)
            degree, sign = degree + sign * power, 1
        return degree, at

    def factor(at: int) -> tuple[int, int]:
        if symbols[at] == "log":
            return 0, factor(at + 1)[1]
        if symbols[at] == "(":
            degree, at = total(at + 1)
            at += 1
        else:
            degree, at = int(symbols[at] in ("n", "m")), at + 1
        if at < len(symbols) and symbols[at] == "^":
            exponent = symbols[at + 1]
            degree, at = degree * (int(exponent) if exponent.isdecimal() else 2), at + 2
        return degree, at

    return total(0)[0]
