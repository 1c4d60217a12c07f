"""`cab list` and `cab show`: which plug-ins there are and what each can do, from their cards alone."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from cab.contracts.pattern import Pattern
from cab.errors import UsageError, unknown
from cab.planning.overrides import node, options
from cab.plugins import cards, registry
from cab.plugins.cards import Card
from cab.terminal.printing import print_pairs

LISTS = ("mechanisms", "tasks", "meters", "grids")


def print_list(name: str, out: Console) -> None:
    """Print one of LISTS, or all of them where `name` is empty."""
    if name and name not in LISTS:
        raise unknown("kind", name, LISTS)
    if name == "meters":
        _print_meters(out, with_methods=True)
    else:
        printers = {
            "mechanisms": _print_mechanisms,
            "tasks": _print_tasks,
            "meters": _print_meters,
            "grids": _print_grids,
        }
        for each in [name] if name else LISTS:
            printers[each](out)
    cards.keep()


def print_plugin(text: str, out: Console) -> None:
    """Print one plug-in: `mechanism=NAME`, `task=NAME`, `meter=NAME`, `metric=NAME`, `grid=NAME`, or the name alone.

    Of several plug-ins with one name, the first kind in `cab.plugins.registry.KINDS` is printed.
    """
    kind, equals, name = text.partition("=")
    if not equals:
        kinds = [kind for kind in registry.KINDS if text in registry.names(kind)]
        if not kinds and not registry.is_file(text):
            raise unknown("plug-in", text, [name for kind in registry.KINDS for name in registry.names(kind)])
        kind, name = (kinds or ["mechanism"])[0], text
    if kind == "grid":
        _print_grid(name, out)
        return
    if kind == "metric":
        _print_metric(name, out)
        return
    if kind not in registry.KINDS:
        raise unknown("kind of plug-in", kind, [*registry.KINDS, "metric", "grid"])
    card = registry.card(kind, name)
    out.print(escape(card.doc.strip()), highlight=False)
    out.print()
    facts_of = {"mechanism": _mechanism_facts, "task": _task_facts, "meter": _meter_facts}
    print_pairs({**facts_of[kind](card), "source": card.path}, out)


def grades(card: Card) -> dict[str, str]:
    """Return pattern -> a mechanism's grade, or - where it refuses the pattern."""
    patterns = card.facts["patterns"]
    if not isinstance(patterns, dict):  # a wrapper, which has the patterns of the mechanism inside
        return dict.fromkeys(Pattern.__members__, "as inner")
    return {name: patterns.get(name, "-") for name in Pattern.__members__}


def patterns_by_reason(refuses: dict[str, str]) -> dict[str, list[str]]:
    """Return reason -> the patterns that are refused for it."""
    patterns: dict[str, list[str]] = {}
    for pattern, reason in refuses.items():
        patterns.setdefault(reason, []).append(pattern)
    return patterns


def reads_text(card: Card) -> str:
    """Say which of q, k and v a mechanism reads: `q, k, v`, or `q, v with kind=dense; otherwise v`."""
    declared = card.facts["reads"]
    if isinstance(declared, str):
        return ", ".join(declared) or "nothing"
    texts = []
    for entry in declared:
        if isinstance(entry, str):
            texts.append(f"otherwise {', '.join(entry) or 'nothing'}")
        else:
            names, condition = entry
            texts.append(f"{', '.join(names) or 'nothing'} {_condition_text(condition)}")
    return "; ".join(texts)


def input_texts(card: Card) -> list[str]:
    """Name what else a mechanism reads: `y`, or `x with gate=full or low`."""
    return [
        f"{name} {_condition_text(entry[-1])}" if isinstance(entry[-1], dict) else name
        for name, entry in card.facts["inputs"].items()
    ]


def _condition_text(condition: dict[str, Any]) -> str:
    """Write the hyper-parameters on which an entry of a card depends. See `cab.contracts.reads`."""
    texts = []
    for name, value in condition.items():
        values = value if isinstance(value, tuple | list) else (value,)
        texts.append(f"{name}={' or '.join(map(str, values))}")
    return f"with {' and '.join(texts)}"


def _print_mechanisms(out: Console) -> None:
    rows = [("name", *Pattern.__members__, "streams", "exact", "cost", "paper", "backends beside eager, compile")]
    notes = []
    for name, card in registry.cards_of("mechanism").items():
        if isinstance(card, UsageError):
            notes.append(f"{name} is unavailable: {card}")
            continue
        facts = card.facts
        rows.append(
            (
                name,
                *grades(card).values(),
                "yes" if "step" in card.methods else "",
                "yes" if facts["exact"] else "",
                facts["cost"],
                facts["paper"],
                " ".join(card.backends[1:-1]),
            )
        )
        for reason, patterns in patterns_by_reason(facts["refuses"]).items():
            notes.append(f"{name} refuses {', '.join(patterns)}: {reason}")
        for law, reason in facts["exempt"].items():
            notes.append(f"{name} is exempt from the law {law}: {reason}")
    _print_columns("Mechanisms", rows, notes, out)


def _print_tasks(out: Console) -> None:
    rows = [("name", "slots", "metrics", "what it is")]
    notes = []
    for name, card in registry.cards_of("task").items():
        if isinstance(card, UsageError):
            notes.append(f"{name} is unavailable: {card}")
            continue
        rows.append((name, " ".join(card.facts["slots"]), " ".join(card.facts["metrics"]), card.headline))
    _print_columns("Tasks", rows, notes, out)


def _print_meters(out: Console, with_methods: bool = False) -> None:
    """Print the meters; `with_methods` also how each measures, and whether it can measure here."""
    rows = [("name", "processes", "metrics")]
    notes = []
    for name, card in registry.cards_of("meter").items():
        if isinstance(card, UsageError):
            notes.append(f"{name} is unavailable: {card}")
            continue
        metrics = ", ".join(f"{metric} ({unit})" for metric, (unit, _) in card.facts["metrics"].items())
        rows.append((name, str(card.facts["processes"]), metrics or "the task's"))
        if with_methods:  # whether a meter is available is known only once it is imported, which takes long
            reason = registry.load("meter", name)().unavailable("cpu")
            notes += ["", f"{name}, on this CPU: {f'unavailable: {reason}' if reason else 'available'}"]
            notes.append(f"  {card.facts['method']}")
    if not with_methods:
        notes.append("their methods: cab list meters")
    _print_columns("Meters", rows, notes, out)


def _print_grids(out: Console) -> None:
    out.print(f"[bold]Grids[/]: {escape(', '.join(options('grid')) or 'none')}", highlight=False)


def _print_columns(title: str, rows: Sequence[tuple[str, ...]], notes: list[str], out: Console) -> None:
    """Print plain columns, and the notes below them.

    A rich table is not used: laying out 90 lines would take longer than the rest of the command.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    out.print(title, style="bold")
    out.print("\n".join([*lines, *notes, ""]), markup=False, highlight=False, soft_wrap=True)


def _print_grid(name: str, out: Console) -> None:
    if name not in options("grid"):
        raise unknown("grid", name, options("grid"))
    for block in node("grid", name)["blocks"]:
        out.print(escape(" ".join(map(str, block))), highlight=False)


def _print_metric(name: str, out: Console) -> None:
    """Print how a metric is measured: the unit and the method of its meter, or the tasks whose score it is."""
    known: list[str] = []
    found = False
    for kind in ("meter", "task"):
        for plugin, card in registry.cards_of(kind).items():
            metrics = {} if isinstance(card, UsageError) else card.facts["metrics"]
            known += metrics
            if isinstance(card, UsageError) or name not in metrics:
                continue
            found = True
            unit, higher_is_better = metrics[name]
            direction = {True: "higher is better", False: "lower is better", None: "neither way is better"}
            facts = {kind: plugin, "unit": unit, "direction": direction[higher_is_better]}
            facts |= {"method": card.facts["method"]} if kind == "meter" else {"score of": card.headline}
            print_pairs(facts, out)
    if not found:
        raise unknown("metric", name, sorted(set(known)))


def _mechanism_facts(card: Card) -> dict[str, Any]:
    facts, refuses = card.facts, card.facts["refuses"]
    return {
        **{
            f"pattern {pattern}": f"refused: {refuses.get(pattern, 'not declared')}" if grade == "-" else grade
            for pattern, grade in grades(card).items()
        },
        "cost": facts["cost"],
        "paper": facts["paper"] or "none",
        "reads": reads_text(card),
        "inputs": ", ".join(input_texts(card)) or "none",
        "backends": ", ".join(card.backends),
        "streams": "yes" if "step" in card.methods else "no",
        "softmax, exactly": "yes" if facts["exact"] else "no",
        "grouped key heads": "yes" if facts["grouped"] else "no",
        **{f"exempt from {law}": reason for law, reason in facts["exempt"].items()},
        **_params("mechanism", card),
    }


def _task_facts(card: Card) -> dict[str, Any]:
    facts = card.facts
    scales = node("task", card.name).get("scales", {}) if card.name in options("task") else {}
    return {
        "slots": ", ".join(facts["slots"]),
        **{
            f"metric {metric}": f"{unit}, {'higher' if higher_is_better else 'lower'} is better"
            for metric, (unit, higher_is_better) in facts["metrics"].items()
        },
        "version": facts["version"],
        "paper": facts["paper"] or "none",
        **{f"scale {name}": settings for name, settings in scales.items()},
        **_params("task", card),
    }


def _meter_facts(card: Card) -> dict[str, Any]:
    facts = card.facts
    return {
        **{f"metric {metric}": unit for metric, (unit, _) in facts["metrics"].items()},
        "method": facts["method"],
        "version": facts["version"],
    }


def _params(kind: str, card: Card) -> dict[str, Any]:
    """Return the hyper-parameters as they are written on the command line -> the YAML's value, or the default."""
    values = {} if registry.is_file(card.name) else node(kind, card.name)
    return {f"{kind}.{name}": values.get(name, default) for name, default in card.params.items()}
