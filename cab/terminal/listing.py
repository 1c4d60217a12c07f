"""`cab list` and `cab show`: which plug-ins there are and what each can do, from their cards alone."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from rich.console import Console
from rich.markup import escape

from cab.contracts.pattern import Pattern
from cab.errors import UsageError, unknown
from cab.planning.grids import grid_texts
from cab.planning.overrides import beside_file, grid_headline, node, options
from cab.plugins import cards, registry
from cab.plugins.cards import Card
from cab.plugins.literature import Title, literature
from cab.terminal.keys import is_key, keys, print_key
from cab.terminal.printing import print_pairs
from cab.terminal.selection import Selection, grades, growth, selection

NARROW = 12  # so few mechanisms are listed with the reasons of what they refuse


def print_list(arguments: list[str], out: Console) -> None:
    """Print the plug-ins that `cab.terminal.selection` selects; all of them without arguments."""
    asked = selection(arguments)
    if asked.kinds() == ("meters",):
        _print_meters(asked, out, with_methods=True)
    else:
        printers = {
            "mechanisms": _print_mechanisms,
            "tasks": _print_tasks,
            "meters": _print_meters,
            "grids": _print_grids,
            "titles": _print_titles,
        }
        for kind in asked.kinds():
            printers[kind](asked, out)
    if asked.narrowed and not any(plugins for plugins in listed(arguments).values()):
        out.print("nothing matches; cab list shows all there is", highlight=False)
    cards.keep()


def listed(arguments: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return kind -> the cards of what `print_list` prints, as plain values for JSON."""
    asked = selection(arguments)
    plugins = {
        kind: [
            {"name": name, "unavailable": str(card)}
            if isinstance(card, UsageError)
            else {"name": name, "source": card.path, "doc": card.doc, **card.facts, **_of_mechanism(card)}
            for name, card in asked.cards(kind.removesuffix("s"))
        ]
        for kind in asked.kinds()
        if kind not in ("grids", "titles")
    }
    if "grids" in asked.kinds():
        plugins["grids"] = [{"name": name, "blocks": grid_texts(name)} for name in _grids(asked)]
    if "titles" in asked.kinds():
        plugins["titles"] = [
            {"title": each.title, "plugins": [card.name for card in each.plugins], "becomes": each.verdict}
            for each in _titles(asked)
        ]
    cards.keep()
    return plugins


def _of_mechanism(card: Card) -> dict[str, Any]:
    """Return what of a mechanism follows from its class: hyper-parameters, backends, streaming, growth of the cost."""
    if card.kind != "mechanism":
        return {}
    return {
        "params": card.params,
        "backends": list(card.backends),
        "streams": "step" in card.methods,
        "growth": growth(card.facts["cost"]),
    }


def print_plugin(text: str, out: Console) -> None:
    """Print what `mechanism=NAME`, `task=`, `meter=`, `metric=` or `grid=` names, a plug-in's name, or a key.

    Of several plug-ins with one name, the first kind in `cab.plugins.registry.KINDS` is printed.
    """
    kind, equals, name = text.partition("=")
    if not equals:
        kinds = [kind for kind in registry.KINDS if text in registry.names(kind)]
        if not kinds and is_key(text):
            print_key(text, out)
            return
        if not kinds and not registry.is_file(text):
            raise _nothing_called(text)
        kind, name = (kinds or ["mechanism"])[0], text
    if kind == "grid":
        _print_grid(name, out)
        return
    if kind == "metric":
        _print_metric(name, out)
        return
    if kind not in registry.KINDS:
        raise unknown("kind of plug-in", kind, [*registry.KINDS, "metric", "grid", "law"])
    card = registry.card(kind, name)
    out.print(escape(card.doc.strip()), highlight=False)
    out.print()
    facts_of = {"mechanism": _mechanism_facts, "task": _task_facts, "meter": _meter_facts}
    print_pairs({**facts_of[kind](card), "source": card.path}, out)


def _nothing_called(text: str) -> UsageError:
    """Say what `cab show TEXT` may have meant; all names together would fill the screen."""
    if text in _metrics():
        return UsageError(f"'{text}' is a metric: cab show metric={text}")
    names = [*keys(), *options("grid"), *(name for kind in registry.KINDS for name in registry.names(kind))]
    near = get_close_matches(text, names, n=3)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return UsageError(
        f"nothing is called '{text}'.{meant} cab list shows plug-ins and grids; a law: cab show law={text}"
    )


def _metrics() -> set[str]:
    cards = (card for kind in ("meter", "task") for card in registry.cards_of(kind).values())
    return {metric for card in cards if not isinstance(card, UsageError) for metric in card.facts["metrics"]}


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
            texts.append(f"{', '.join(names) or 'nothing'} {condition_text(condition)}")
    return "; ".join(texts)


def input_texts(card: Card) -> list[str]:
    """Name what else a mechanism reads: `y`, or `x with gate=full or low`."""
    return [
        f"{name} {condition_text(entry[-1])}" if isinstance(entry[-1], dict) else name
        for name, entry in card.facts["inputs"].items()
    ]


def ours_text(card: Card) -> str:
    """Say where a native pattern is an extension after all: `on 1 or 3 axes in NS; with depth=True`."""
    return "; ".join(map(_ours_entry, card.facts["ours"]))


def _ours_entry(entry: dict[str, Any]) -> str:
    around = ("axes", "source_axes", "rotary", "patterns")
    rest = {name: value for name, value in entry.items() if name not in around}
    parts = [f"on {_axes_text(entry['axes'])}"] if "axes" in entry else []
    parts += [f"reading {_axes_text(entry['source_axes'])}"] if "source_axes" in entry else []
    parts += ["with rotary positions"] if entry.get("rotary") else []
    parts += [f"in {', '.join(entry['patterns'])}"] if "patterns" in entry else []
    return " ".join([*parts, *([condition_text(rest)] if rest else [])])


def _axes_text(axes: Any) -> str:
    texts = [*map(str, axes if isinstance(axes, list | tuple) else (axes,))]
    return f"{' or '.join(texts)} {'axis' if texts == ['1'] else 'axes'}"


def condition_text(condition: Mapping[str, Any]) -> str:
    """Write the hyper-parameters on which an entry of a card depends. See `cab.contracts.reads`."""
    texts = []
    for name, value in condition.items():
        sign, value = ("≠", value["not"]) if isinstance(value, dict) else ("=", value)
        values = value if isinstance(value, tuple | list) else (value,)
        texts.append(f"{name}{sign}{' or '.join(map(str, values))}")
    return f"with {' and '.join(texts)}"


def _print_mechanisms(asked: Selection, out: Console) -> None:
    rows = [("name", *Pattern.__members__, "streams", "cost", "paper")]
    reasons, unavailable = [], []
    for name, card in asked.cards("mechanism"):
        if isinstance(card, UsageError):
            unavailable.append(f"{name} is unavailable: {card}")
            continue
        facts = card.facts
        short = {"native": "native", "extension": "ext", "leaky": "leaky", "as inner": "inner", "-": "-"}
        rows.append(
            (
                name,
                *(short[grade] for grade in grades(card).values()),
                "yes" if "step" in card.methods else "",
                _shortened(facts["cost"], 26),
                facts["paper"].removeprefix("arXiv "),
            )
        )
        for reason, patterns in patterns_by_reason(facts["refuses"]).items():
            reasons.append(f"{name} refuses {', '.join(patterns)}: {reason}")
        for law, reason in facts["exempt"].items():
            reasons.append(f"{name} is exempt from the law {law}: {reason}")
    more = "ext: our extension of the paper's pattern; reasons and hyper-parameters: cab show mechanism=NAME"
    shown = reasons if len(rows) <= NARROW + 1 else [more]
    _print_columns("Mechanisms", rows, shown + unavailable, asked, out)


def _print_tasks(asked: Selection, out: Console) -> None:
    rows = [("name", "slots", "metrics", "what it is")]
    notes = []
    for name, card in asked.cards("task"):
        if isinstance(card, UsageError):
            notes.append(f"{name} is unavailable: {card}")
            continue
        rows.append((name, " ".join(card.facts["slots"]), " ".join(card.facts["metrics"]), card.headline))
    _print_columns("Tasks", rows, notes, asked, out)


def _print_meters(asked: Selection, out: Console, with_methods: bool = False) -> None:
    """Print the meters; `with_methods` also how each measures, and whether it can measure here."""
    rows = [("name", "processes", "metrics")]
    notes = []
    for name, card in asked.cards("meter"):
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
    _print_columns("Meters", rows, notes, asked, out)


def _grids(asked: Selection) -> list[str]:
    if not asked.words:  # the blocks are slow to read
        return list(options("grid"))
    return [name for name in options("grid") if asked.has_words(f"{name} {grid_texts(name)}")]


def _print_grids(asked: Selection, out: Console) -> None:
    rows = [("name", "what it is"), *((name, grid_headline(name)) for name in _grids(asked))]
    _print_columns("Grids", rows, [], asked, out)


def _titles(asked: Selection) -> list[Title]:
    return [each for each in literature() if asked.has_words(f"{each.title} {each.verdict}")]


def _print_titles(asked: Selection, out: Console) -> None:
    """Print titles of the founding literature, and below each the plug-ins that cover it, or why there is none."""
    lines = [line for each in _titles(asked) for line in (each.title, f"    {each.verdict}")]
    if lines:
        out.print("Titles", style="bold")
        out.print("\n".join([*lines, ""]), markup=False, highlight=False, soft_wrap=True)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _print_columns(
    title: str, rows: Sequence[tuple[str, ...]], notes: list[str], asked: Selection, out: Console
) -> None:
    """Print plain columns, and the notes below them.

    A rich table is not used: laying out 90 lines would take longer than the rest of the command.
    """
    if len(rows) == 1 and asked.narrowed:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    out.print(title, style="bold")
    out.print("\n".join([*lines, *notes, ""]), markup=False, highlight=False, soft_wrap=True)


def _print_grid(name: str, out: Console) -> None:
    for block in grid_texts(name):
        out.print(escape(" ".join(block)), highlight=False)


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
        **({"ours after all": ours_text(card)} if facts["ours"] else {}),
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
    of_yaml = beside_file(card.name) if registry.is_file(card.name) else node("task", card.name)
    case, scales = ({**card.facts[name], **of_yaml.get(name, {})} for name in ("case", "scales"))
    return {
        "slots": ", ".join(facts["slots"]),
        **{
            f"metric {metric}": f"{unit}, {'higher' if higher_is_better else 'lower'} is better"
            for metric, (unit, higher_is_better) in facts["metrics"].items()
        },
        "version": facts["version"],
        "paper": facts["paper"] or "none",
        **({"case": _keys_text(case)} if case else {}),
        **{f"scale {name}": _keys_text(settings) for name, settings in scales.items()},
        **_params("task", card),
    }


def _keys_text(settings: dict[str, Any], prefix: str = "") -> str:
    """Write nested settings as they stand on the command line: `training.steps=100 seq_len=64`."""
    texts = []
    for key, value in settings.items():
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        texts.append(_keys_text(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key}={shown}")
    return " ".join(texts)


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
    accepts = card.facts.get("accepts", {})
    shown = {f"{kind}.{name}": values.get(name, default) for name, default in card.params.items()}
    return {
        key: f"{value} ({_accepted(accepts[name])})" if (name := key.partition(".")[2]) in accepts else value
        for key, value in shown.items()
    }


def _accepted(rule: Any) -> str:
    """Write what a hyper-parameter accepts: `>= 1`, or `one of a, b`."""
    return rule if isinstance(rule, str) else f"one of {', '.join(map(str, rule))}"
