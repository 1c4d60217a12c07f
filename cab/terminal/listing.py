"""`cab list` and `cab show`: what plug-ins there are and what each is, from their cards alone."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from cab.contracts.pattern import Pattern
from cab.errors import UsageError, unknown
from cab.planning.overrides import node, options
from cab.plugins import cards, registry
from cab.plugins.cards import Card
from cab.terminal.printing import lines as print_lines

KINDS = ("mechanisms", "tasks", "meters", "grids")


def print_list(what: str, out: Console) -> None:
    """Print the plug-ins of a kind, or of every kind."""
    if what and what not in KINDS:
        raise unknown("kind", what, KINDS)
    printers = {"mechanisms": _mechanisms, "tasks": _tasks, "meters": _meters, "grids": _grids}
    for kind in [what] if what else KINDS:
        if kind == what == "meters":
            _meters(out, alone=True)
        else:
            printers[kind](out)
    cards.keep()


def print_plugin(what: str, out: Console) -> None:
    """Print one plug-in: `mechanism=NAME`, `task=NAME`, `grid=NAME`, or the name alone where it is clear."""
    kind, equals, name = what.partition("=")
    if not equals:
        owners = [k for k in registry.KINDS if what in registry.names(k)]
        if not owners and not registry.is_file(what):
            raise unknown("plug-in", what, [name for kind in registry.KINDS for name in registry.names(kind)])
        kind, name = (owners or ["mechanism"])[0], what
    if kind == "grid":
        return _show_grid(name, out)
    if kind not in registry.KINDS:
        raise unknown("kind of plug-in", kind, [*registry.KINDS, "grid"])
    card = registry.card(kind, name)
    out.print(escape(card.doc.strip()), highlight=False)
    out.print()
    {"mechanism": _show_mechanism, "task": _show_task, "meter": _show_meter}[kind](card, out)


def grades(card: Card) -> dict[str, str]:
    """Return pattern -> grade, or - where it is refused."""
    patterns = card.facts["patterns"]
    if not isinstance(patterns, dict):
        return dict.fromkeys(Pattern.__members__, "as inner")
    return {name: patterns.get(name, "-") for name in Pattern.__members__}


def _mechanisms(out: Console) -> None:
    rows = [("name", *Pattern.__members__, "streams", "exact", "cost", "paper", "backends beside eager, compile")]
    below = []
    for name, card in registry.cards_of("mechanism").items():
        if isinstance(card, UsageError):
            below.append(f"{name} is unavailable: {card}")
            continue
        facts, yes = card.facts, {True: "yes", False: ""}
        more = [yes["step" in card.methods], yes[bool(facts["exact"])], facts["cost"], facts["paper"]]
        rows.append((name, *grades(card).values(), *more, " ".join(card.backends[1:-1])))
        below += [f"{name} refuses {', '.join(which)}: {why}" for why, which in reasons(facts["refuses"]).items()]
        below += [f"{name} is exempt from the law {law}: {why}" for law, why in facts["exempt"].items()]
    _print_columns("Mechanisms", rows, below, out)


def _print_columns(title: str, rows: Sequence[tuple[str, ...]], below: list[str], out: Console) -> None:
    """Print plain columns: a rich table of 90 lines takes longer to lay out than everything else together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    out.print(title, style="bold")
    out.print("\n".join([*lines, *below, ""]), markup=False, highlight=False, soft_wrap=True)


def reasons(refuses: dict[str, str]) -> dict[str, list[str]]:
    """Return reason -> the patterns that are refused for it."""
    found: dict[str, list[str]] = {}
    for pattern, why in refuses.items():
        found.setdefault(why, []).append(pattern)
    return found


def _tasks(out: Console) -> None:
    rows, below = [("name", "slots", "metrics", "what it is")], []
    for name, card in registry.cards_of("task").items():
        if isinstance(card, UsageError):
            below.append(f"{name} is unavailable: {card}")
            continue
        rows.append((name, " ".join(card.facts["slots"]), " ".join(card.facts["metrics"]), card.headline))
    _print_columns("Tasks", rows, below, out)


def _meters(out: Console, alone: bool = False) -> None:
    """Print the meters; `alone`, each with its method and whether it can measure here."""
    rows, below = [("name", "processes", "metrics")], []
    for name, card in registry.cards_of("meter").items():
        if isinstance(card, UsageError):
            below.append(f"{name} is unavailable: {card}")
            continue
        metrics = ", ".join(f"{m} ({unit})" for m, (unit, _) in card.facts["metrics"].items()) or "the task's"
        rows.append((name, str(card.facts["processes"]), metrics))
        if alone:  # a meter must be imported to be asked, which takes longer than the rest of the list
            here = registry.load("meter", name)().unavailable("cpu")
            below += ["", f"{name}, on this CPU: {f'unavailable: {here}' if here else 'available'}"]
            below.append(f"  {card.facts['method']}")
    _print_columns("Meters", rows, below if alone else [*below, "their methods: cab list meters"], out)


def _grids(out: Console) -> None:
    out.print(f"[bold]Grids[/]: {escape(', '.join(options('grid')) or 'none')}", highlight=False)


def _show_grid(name: str, out: Console) -> None:
    if name not in options("grid"):
        raise unknown("grid", name, options("grid"))
    for block in node("grid", name)["blocks"]:
        out.print(escape(" ".join(map(str, block))), highlight=False)


def _params(kind: str, card: Card) -> dict[str, Any]:
    given = node(kind, card.name) if not registry.is_file(card.name) else {}
    return {f"{kind}.{key}": given.get(key, default) for key, default in card.params.items()}


def _show_mechanism(card: Card, out: Console) -> None:
    facts, refuses = card.facts, card.facts["refuses"]
    shown = {
        f"pattern {k}": g if g != "-" else f"refused: {refuses.get(k, 'not declared')}" for k, g in grades(card).items()
    }
    shown |= {
        "cost": facts["cost"],
        "paper": facts["paper"] or "none",
        "reads": ", ".join(facts["reads"]) or "nothing",
        "inputs": ", ".join(facts["inputs"]) or "none",
        "backends": ", ".join(card.backends),
        "streams": "yes" if "step" in card.methods else "no",
        "softmax, exactly": "yes" if facts["exact"] else "no",
        "grouped key heads": "yes" if facts["grouped"] else "no",
    }
    shown |= {f"exempt from {law}": why for law, why in facts["exempt"].items()}
    print_lines({**shown, **_params("mechanism", card), "source": card.path}, out)


def _show_task(card: Card, out: Console) -> None:
    facts = card.facts
    metrics = {f"metric {k}": f"{u}, {'higher' if h else 'lower'} is better" for k, (u, h) in facts["metrics"].items()}
    shown = {
        "slots": ", ".join(facts["slots"]),
        **metrics,
        "version": facts["version"],
        "paper": facts["paper"] or "none",
    }
    for name, scale in (node("task", card.name).get("scales", {}) if card.name in options("task") else {}).items():
        shown[f"scale {name}"] = scale
    print_lines({**shown, **_params("task", card), "source": card.path}, out)


def _show_meter(card: Card, out: Console) -> None:
    facts = card.facts
    shown = {f"metric {name}": unit for name, (unit, _) in facts["metrics"].items()}
    print_lines({**shown, "method": facts["method"], "version": facts["version"], "source": card.path}, out)
