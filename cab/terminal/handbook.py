"""`docs/mechanisms.md`, made from the cards: what each mechanism can do, what it refuses and why, and what sets it."""

import re
from collections.abc import Iterator

from cab.contracts.pattern import Pattern
from cab.errors import UsageError
from cab.planning.overrides import folders
from cab.plugins import registry
from cab.plugins.cards import Card
from cab.terminal.listing import grades, reasons

HEAD = """# Mechanisms

Made by `cab list mechanisms --markdown > docs/mechanisms.md` from what the mechanisms declare; a test holds the two
together. *native*: as published. *extension*: the published one has no such form; the docstring says what was chosen.
*leaky*: called causal by its authors, yet a later token changes an earlier row. A dash: refused, for the reason below.
"""


def markdown() -> str:
    """Return the page."""
    cards = [card for card in registry.cards_of("mechanism").values() if not isinstance(card, UsageError)]
    return "\n".join([HEAD, *_matrix(cards), "", *_refusals(cards), *_exemptions(cards), *_each(cards)])


def _matrix(cards: list[Card]) -> Iterator[str]:
    heads = ["mechanism", *Pattern.__members__, "cost", "streams", "exact", "backends", "paper"]
    yield _row(heads)
    yield _row(["---"] * len(heads))
    for card in cards:
        facts = card.facts
        more = ["yes" if "step" in card.methods else "", "yes" if facts["exact"] else "", ", ".join(card.backends)]
        yield _row(
            [
                f"[{card.name}](#{card.name})",
                *grades(card).values(),
                f"`{facts['cost']}`",
                *more,
                _linked(facts["paper"]),
            ]
        )


def _refusals(cards: list[Card]) -> Iterator[str]:
    yield "## What is refused, and why\n"
    for card in cards:
        for why, patterns in reasons(card.facts["refuses"]).items():
            yield f"- {card.name}, {', '.join(patterns)}: {_plain(why)}"
    yield ""


def _exemptions(cards: list[Card]) -> Iterator[str]:
    yield "## Exemptions from the laws\n"
    for card in cards:
        for law, why in card.facts["exempt"].items():
            yield f"- {card.name}, `{law}`: {_plain(why)}"
    yield ""


def _each(cards: list[Card]) -> Iterator[str]:
    for card in cards:
        about = _comments(card.name)
        first, _, rest = card.doc.strip().partition("\n\n")
        yield f"## {card.name}\n\n{_plain(first)}\n"
        if rest:
            yield f"```text\n{rest}\n```\n"
        reads = [*card.facts["reads"], *card.facts["inputs"]]
        yield f"Reads {', '.join(reads) or 'nothing'}. Source: `mechanisms/{card.name}.py`.\n"
        if card.params:
            yield _row(["hyper-parameter", "default", ""])
            yield _row(["---"] * 3)
            for key, default in card.params.items():
                yield _row([f"`{key}`", f"`{default}`", _plain(about.get(key, ""))])
            yield ""


def _comments(name: str) -> dict[str, str]:
    """Return what a mechanism's YAML says of each hyper-parameter."""
    for folder in folders():
        file = folder / "mechanism" / f"{name}.yaml"
        if file.is_file():
            return dict(re.findall(r"^(\w+):[^#\n]*#\s*(.+)$", file.read_text(), re.MULTILINE))
    return {}


def _linked(paper: str) -> str:
    return re.sub(r"^arXiv (\S+)$", r"[\1](https://arxiv.org/abs/\1)", paper)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _plain(text: str) -> str:
    """Return text in which nothing is Markdown."""
    return re.sub(r"([*_|<\\])", r"\\\1", " ".join(text.split()))
