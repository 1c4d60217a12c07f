"""`docs/coverage.md`, made from the cards and the table of titles: what became of each paper of the literature."""

from collections.abc import Iterator, Mapping

from cab.errors import UsageError
from cab.plugins import registry
from cab.plugins.cards import Card
from cab.plugins.literature import Title, literature
from cab.terminal.handbook import escape, head, row
from cab.terminal.listing import condition_text, ours_text
from cab.terminal.selection import grades

HEAD = """# Coverage of the literature

Made by `cab list titles --markdown > docs/coverage.md` from the mechanisms' cards and `cab/plugins/literature.csv`; a
test holds them together. Grades are of the patterns NS, CS, NC, CC in this order: N native, E our extension, L leaky,
- refused ([why](mechanisms.md#what-is-refused-and-why)); *ours* says where a native pattern is an extension after all.
Each plug-in obeys every law in each pattern that it supports, but for the laws that are named here; the tests check all
of them. *Provisional*: the source does not define all of it. *Equal to*: the independent implementation that a test in
`tests/against_others` compares it with; the others are held to their plain formula, `reference`. *Timed only*: no task
that trains offers what it reads, and `speed` draws it at random. `cab list WORDS` searches these titles.
"""


def markdown() -> str:
    """Return the page."""
    titles = literature()
    covered = [each for each in titles if each.plugins]
    provisional = sum(bool(each.missing) for each in covered)
    counts = (
        f"{len(titles)} titles: {len(covered)} become a plug-in ({provisional} provisional), "
        f"{len(titles) - len(covered)} do not.\n"
    )
    lines = [
        HEAD,
        counts,
        *head(["title", "plug-in", "patterns", "laws", "equal to", "provisional, timed only, or no plug-in"]),
    ]
    return "\n".join([*lines, *_rows(titles), ""])


def _rows(titles: list[Title]) -> Iterator[str]:
    for each in titles:
        if each.plugins:
            missing = f"provisional: {escape(each.missing)}" if each.missing else ""
            for card in each.plugins:
                remarks = "; ".join(filter(None, (missing, escape(timed_only(card)))))
                yield row([escape(each.title), *_of_plugin(card), remarks])
        else:
            yield row([escape(each.title), "-", "", "", "", escape(each.verdict.removeprefix("none: "))])


def timed_only(card: Card) -> str:
    """Say which of its inputs no task that trains offers, and with which hyper-parameters it reads them; or ""."""
    tasks = [each for each in registry.cards_of("task").values() if not isinstance(each, UsageError)]
    offered = {"x", "y"}.union(*(each.facts["inputs"] for each in tasks if each.facts["trains"]))
    texts = []
    for name, entry in card.facts["inputs"].items():
        if name not in offered:
            condition = f"{condition_text(entry[-1])} " if isinstance(entry[-1], Mapping) else ""
            texts.append(f"{condition}timed only: no task offers `{name}`")
    return "; ".join(texts)


def _of_plugin(card: Card) -> list[str]:
    patterns = (
        "as inner"
        if card.facts["patterns"] == "inner"
        else " ".join("-" if grade == "-" else grade[0].upper() for grade in grades(card).values())
    )
    if card.facts["ours"]:
        patterns += f"; ours {escape(ours_text(card))}"
    exempt = ", ".join(f"`{law}`" for law in card.facts["exempt"])
    laws = f"all but {exempt}" if exempt else "all"
    return [f"[{card.name}](mechanisms.md#{card.name})", patterns, laws, escape(card.facts["parity"])]
