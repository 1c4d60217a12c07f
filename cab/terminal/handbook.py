"""`docs/mechanisms.md`, made from the cards: each mechanism's patterns, refusals, exemptions and hyper-parameters."""

import re
from collections.abc import Iterator

from cab.contracts.pattern import Pattern
from cab.errors import UsageError
from cab.planning.overrides import folders
from cab.plugins import registry
from cab.plugins.cards import Card
from cab.terminal.listing import input_texts, ours_text, patterns_by_reason, reads_text
from cab.terminal.selection import grades

HEAD = """# Mechanisms

Made by `cab list mechanisms --markdown > docs/mechanisms.md` from what the mechanisms declare; a test holds the two
together. *native*: as published. *extension*: the published one has no such form; the docstring says what was chosen.
*leaky*: called causal by its authors, yet a later token changes an earlier row. A dash: refused, for the reason below.
"""


def markdown() -> str:
    """Return the page. A mechanism whose card cannot be read is left out."""
    cards = [card for card in registry.cards_of("mechanism").values() if not isinstance(card, UsageError)]
    return "\n".join([HEAD, *_matrix(cards), "", *_refusals(cards), *_exemptions(cards), *_sections(cards)])


def _matrix(cards: list[Card]) -> Iterator[str]:
    yield from head(["mechanism", *Pattern.__members__, "cost", "streams", "exact", "backends", "paper"])
    for card in cards:
        yield row(
            [
                f"[{card.name}](#{card.name})",
                *grades(card).values(),
                f"`{card.facts['cost']}`",
                "yes" if "step" in card.methods else "",
                "yes" if card.facts["exact"] else "",
                ", ".join(card.backends),
                _paper_link(card.facts["paper"]),
            ]
        )


def _refusals(cards: list[Card]) -> Iterator[str]:
    yield "## What is refused, and why\n"
    for card in cards:
        for reason, patterns in patterns_by_reason(card.facts["refuses"]).items():
            yield f"- {card.name}, {', '.join(patterns)}: {escape(reason)}"
    yield ""


def _exemptions(cards: list[Card]) -> Iterator[str]:
    yield "## Exemptions from the laws\n"
    for card in cards:
        for law, reason in card.facts["exempt"].items():
            yield f"- {card.name}, `{law}`: {escape(reason)}"
    yield ""


def _sections(cards: list[Card]) -> Iterator[str]:
    for card in cards:
        comments = _yaml_comments(card.name)
        summary, _, details = card.doc.strip().partition("\n\n")
        yield f"## {card.name}\n\n{escape(summary)}\n"
        if details:
            yield f"```text\n{details}\n```\n"
        reads = card.facts["reads"]
        texts = [*(reads if isinstance(reads, str) else [reads_text(card)]), *input_texts(card)]
        if card.facts["ours"]:
            yield f"An extension after all, where the table says native: {escape(ours_text(card))}.\n"
        yield f"Reads {', '.join(texts) or 'nothing'}. Source: `mechanisms/{card.name}.py`.\n"
        if card.params:
            yield from head(["hyper-parameter", "default", ""])
            for name, default in card.params.items():
                yield row([f"`{name}`", f"`{default}`", escape(comments.get(name, ""))])
            yield ""


def _yaml_comments(name: str) -> dict[str, str]:
    """Return hyper-parameter -> the comment beside it in the mechanism's YAML."""
    for folder in folders():
        file = folder / "mechanism" / f"{name}.yaml"
        if file.is_file():
            return dict(re.findall(r"^(\w+):[^#\n]*#\s*(.+)$", file.read_text(), re.MULTILINE))
    return {}


def _paper_link(paper: str) -> str:
    return re.sub(r"^arXiv (\S+)$", r"[\1](https://arxiv.org/abs/\1)", paper)


def head(cells: list[str]) -> Iterator[str]:
    """Yield the first two lines of a Markdown table."""
    yield row(cells)
    yield row(["---"] * len(cells))


def row(cells: list[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def escape(text: str) -> str:
    """Return the text in one line, with Markdown's special characters escaped."""
    return re.sub(r"([*_|<\\])", r"\\\1", " ".join(text.split()))
