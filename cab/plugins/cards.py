"""A plug-in's card: its declared facts and its hyper-parameters, read from the source without running it.

Listing and planning need no more than this, so that they import no torch. Cards are cached by the content of the files
that they are read from. A test holds every card of ours equal to the class.
"""

import ast
import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from cab.contracts.pattern import Pattern
from cab.errors import UsageError, unknown
from cab.paths import PACKAGE, cache, write_whole

CONTRACTS = {"mechanism": "Mechanism", "task": "Task", "meter": "Meter"}  # kind -> the class that plug-ins derive from
# arguments of a constructor that are no hyper-parameters: the harness passes them
HARNESS_ARGUMENTS = {
    "mechanism": ("inner", "second"),
    "task": ("seq_len", "source_len", "heads", "dim", "pattern"),
    "meter": (),
}
# a class that derives from one of theirs is a mechanism too
_MECHANISM_BASES = (PACKAGE / "contracts" / "wrapper.py", PACKAGE / "ops" / "pairwise.py")
# type of an entry in the contract -> what a card may have in its place, in Python and in words
_FORMS: dict[type, tuple[Any, str]] = {
    dict: (dict, "a dict"),
    tuple: (list | tuple, "a tuple, as in ('a', 'b'); of one, ('a',)"),
    str: (str, "a string"),
    bool: (bool, "True or False"),
    int: (int, "a whole number"),
    type(None): (object, ""),
}
_OWN_FORMS = ("patterns", "reads", "holes", "metrics")  # entries with several forms, or with a message of their own
REQUIRED = "<required>"  # the default of a hyper-parameter that has none


@dataclass(frozen=True)
class Card:
    """What a plug-in says of itself."""

    kind: str
    name: str  # what a user types
    path: str
    class_name: str
    facts: dict[str, Any]  # the class's literal attributes, those of the contract filled in
    params: dict[str, Any]  # hyper-parameter -> default, in the order of the signature
    methods: list[str]  # what the class itself defines
    doc: str  # the module's docstring
    takes: list[str] = field(default_factory=list)  # which of HARNESS_ARGUMENTS its constructor takes

    @property
    def backends(self) -> list[str]:
        """Every computation of a mechanism that can be asked for by name."""
        own = [name.removeprefix("attend_") for name in self.methods if name.startswith("attend_")]
        return ["eager", *sorted(own), "compile"]

    @property
    def headline(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""


class _CardCache:
    """Cards by the hash of what they were read from, kept in one file of the user's cache."""

    def __init__(self) -> None:
        self.cards = self._load()
        self._changed = False

    def add(self, key: str, card: Card) -> None:
        """Add a card that has just been read."""
        self.cards[key] = asdict(card)
        self._changed = True

    def write(self) -> None:
        """Write the file if a card has been added; a cache that cannot be written costs time only."""
        if self._changed:
            with suppress(OSError):
                write_whole(cache() / "cards.json", json.dumps(self.cards))
            self._changed = False

    @staticmethod
    def _load() -> dict[str, dict[str, Any]]:
        try:
            cards = json.loads((cache() / "cards.json").read_text())
        except (OSError, ValueError):
            return {}
        # a file of another version of this module, or of no version at all, is as good as none
        names = {field.name for field in fields(Card)}
        fits = isinstance(cards, dict) and all(isinstance(c, dict) and set(c) == names for c in cards.values())
        return cards if fits else {}


@lru_cache
def _card_cache() -> _CardCache:
    return _CardCache()


def read(kind: str, name: str, path: Path, class_name: str | None = None) -> Card:
    """Return the card of the plug-in in `path`; `UsageError` says what is wrong with the file.

    Without a `class_name` it is the only class of the file that derives from the kind's contract.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{kind} '{name}': cannot read {path}: {error.strerror}") from error
    identity = f"{name} {path} {class_name}".encode()
    key = hashlib.sha256(b"\0".join([source, _shared_source(kind), identity])).hexdigest()
    known = _card_cache()
    if key not in known.cards:
        known.add(key, _parse(kind, name, path, source, class_name))
    return Card(**known.cards[key])


def keep() -> None:
    """Write the cards that were newly read to the user's cache."""
    _card_cache().write()


@lru_cache
def _shared_source(kind: str) -> bytes:
    """Return what every card of a kind is read through: the contract, this module, and of tasks the suites."""
    contract = (PACKAGE / "contracts" / f"{kind}.py").read_bytes() + Path(__file__).read_bytes()
    if kind == "mechanism":
        contract += b"".join(path.read_bytes() for path in _MECHANISM_BASES)
    return contract + b"".join(_suite_sources().values() if kind == "task" else ())


def _parse(kind: str, name: str, path: Path, source: bytes, class_name: str | None) -> Card:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:  # the last two: nested too deeply
        deep = "its expressions are nested too deeply"
        reason = str(error) or deep
        if isinstance(error, SyntaxError):  # one about null bytes knows no line
            reason = f"line {error.lineno}: {error.msg}" if error.lineno else error.msg
        raise UsageError(f"{kind} '{name}': {path} is not valid Python: {reason}") from error
    own_classes = _classes(tree)
    classes = _suite_classes(tree) | (_mechanism_bases() if kind == "mechanism" else {}) | own_classes
    class_name = _class_of_plugin(kind, name, path, class_name, own_classes, classes)
    bases, _ = _with_bases(class_name, classes)
    facts, methods = dict(_contract_facts(kind)), set()
    init: ast.FunctionDef | None = None
    for node in reversed(bases):  # the base first, so that the derived class overrides it
        literals = _literals(node, name, must_be_literal=_contract_facts(kind))
        _check_spelling(literals, kind, name)
        facts.update(literals)
        methods |= _methods(node)
        init = next((item for item in node.body if _is_constructor(item)), init)
    if kind == "mechanism" and not (isinstance(facts["patterns"], dict) or facts["patterns"] == "inner"):
        raise UsageError(
            f"mechanism '{name}': `patterns` is {facts['patterns']!r}; write a dict of grades, as in {{'CS': 'native'}}"
        )
    if kind == "mechanism" and isinstance(facts["patterns"], dict):
        for pattern in (*facts["patterns"], *facts["refuses"]):
            if pattern not in Pattern.__members__:
                raise unknown(f"pattern of mechanism '{name}'", str(pattern), Pattern.__members__)
    _check_forms(facts, kind, name)
    if kind in ("task", "meter"):
        _check_metrics(facts["metrics"], kind, name)
    params, takes = _constructor(init, kind, name)
    for key, value in facts.get("added", {}).items():
        if key not in params or params[key] != value:
            usual = f"its default is {params[key]!r}" if key in params else "there is no such hyper-parameter"
            raise UsageError(f"{kind} '{name}': `added` has {key!r}: {value!r}, and {usual}")
    doc = ast.get_docstring(tree) or ast.get_docstring(classes[class_name]) or ""
    # through JSON, so that a card from the cache and a fresh one are alike
    facts, params = json.loads(json.dumps([facts, params]))
    return Card(kind, name, str(path), class_name, facts, params, sorted(methods), doc, takes)


def _check_forms(facts: dict[str, Any], kind: str, name: str) -> None:
    """Raise `UsageError` where an entry of the card has another form than the contract's own value of it."""
    for fact, usual in _contract_facts(kind).items():
        value = facts[fact]
        if fact in ("rasters", "source_rasters"):
            if value is not None and not _names_axes(value):
                raise UsageError(
                    f"{kind} '{name}': `{fact}` is {value!r}; write the numbers of axes, 1 to 3, as in (1, 2), or a "
                    "dict of them by pattern, or entries with a condition on hyper-parameters"
                )
        elif fact not in _OWN_FORMS and not isinstance(value, _FORMS[type(usual)][0]):
            raise UsageError(f"{kind} '{name}': `{fact}` is {value!r}; write {_FORMS[type(usual)][1]}")
    for fact in ("exempt", "refuses") if kind == "mechanism" else ():
        for key, reason in facts[fact].items():
            if not isinstance(key, str) or not isinstance(reason, str) or not reason.strip():
                raise UsageError(f"{kind} '{name}': `{fact}` has {key!r}: {reason!r}; write a name and the reason why")
    for fact in ("checks", "limits", "ours") if kind == "mechanism" else ():
        wrong = next((entry for entry in facts[fact] if not isinstance(entry, dict)), None)
        if wrong is not None:
            raise UsageError(f"{kind} '{name}': `{fact}` has {wrong!r}; each of its entries is a dict")


def _names_axes(declared: Any) -> bool:
    """Whether it is a declaration of rasters: see cab.contracts.rasters."""
    if isinstance(declared, dict):
        return all(pattern in Pattern.__members__ and _are_axes(axes) for pattern, axes in declared.items())
    if not isinstance(declared, list | tuple) or not declared:
        return False

    def one(entry: Any) -> bool:
        conditional = isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[1], dict)
        plain = entry[0] if conditional else entry
        return _is_axis(plain) or _names_axes(plain)

    return all(map(one, declared))


def _are_axes(axes: Any) -> bool:
    return isinstance(axes, list | tuple) and bool(axes) and all(map(_is_axis, axes))


def _is_axis(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number in (1, 2, 3)


def _check_metrics(metrics: Any, kind: str, name: str) -> None:
    """Raise `UsageError` unless `metrics` maps names to a unit and to whether more is better."""
    form = "write name -> (unit, whether more is better), as in {'accuracy': ('fraction', True)}; None is neither"
    if not isinstance(metrics, dict):
        raise UsageError(f"{kind} '{name}': `metrics` is {metrics!r}; {form}")
    for metric, entry in metrics.items():
        if not isinstance(metric, str) or not metric.isidentifier():
            raise UsageError(f"{kind} '{name}': {metric!r} is no name of a metric: letters, digits and _; {form}")
        pair = tuple(entry) if isinstance(entry, list | tuple) else ()
        if len(pair) != 2 or not isinstance(pair[0], str) or pair[1] not in (True, False, None):
            raise UsageError(f"{kind} '{name}': `metrics` has {metric!r}: {entry!r}; {form}")


def _check_spelling(literals: Collection[str], kind: str, name: str) -> None:
    """Raise `UsageError` for an attribute that looks like a misspelt fact of the card: `pattern` for `patterns`."""
    facts = _contract_facts(kind)
    for attribute in literals:
        near = get_close_matches(attribute, facts, n=1, cutoff=0.8)
        if attribute not in facts and near:
            raise UsageError(f"{kind} '{name}': `{attribute}` is no entry of a card; did you mean `{near[0]}`?")


def _class_of_plugin(
    kind: str,
    name: str,
    path: Path,
    class_name: str | None,
    own_classes: dict[str, ast.ClassDef],
    classes: dict[str, ast.ClassDef],
) -> str:
    """Return the class of a file that is the plug-in: the one asked for, or the only one derived from the contract."""
    contract = CONTRACTS[kind]
    candidates = [
        each for each in own_classes if contract in _with_bases(each, classes)[1] and not each.startswith("_")
    ]
    if class_name is None:
        if len(candidates) != 1:
            found = ", ".join(candidates) or "none"
            raise UsageError(f"{kind} '{name}': {path} must hold one class derived from cab.{contract}; found {found}")
        return candidates[0]
    if class_name not in own_classes:
        raise unknown(f"class in {path}", class_name, candidates)
    return class_name


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _suite_classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    """Return the classes of `cab.suites` that a file imports, with those that they derive from.

    They are what several tasks share.
    """
    classes: dict[str, ast.ClassDef] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cab.suites."):
            source = _suite_sources().get((node.module or "").removeprefix("cab.suites."))
            if source is None:
                raise UsageError(f"line {node.lineno} imports {node.module}, which is not there")
            suite = ast.parse(source)
            classes |= _suite_classes(suite) | _classes(suite)
    return classes


@lru_cache
def _mechanism_bases() -> dict[str, ast.ClassDef]:
    """Return the classes between the contract and a mechanism: wrappers, and what all pairs share."""
    return {name: node for path in _MECHANISM_BASES for name, node in _classes(ast.parse(path.read_bytes())).items()}


@lru_cache
def _suite_sources() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((PACKAGE / "suites").glob("*.py"))}


def _with_bases(name: str, classes: dict[str, ast.ClassDef]) -> tuple[list[ast.ClassDef], list[str]]:
    """Return a class with those of its bases that are among `classes`, and the names of it and all its bases."""
    nodes, names, queue = [], [], [name]
    while queue:
        current = queue.pop(0)
        names.append(current)
        if current in classes and classes[current] not in nodes:
            nodes.append(classes[current])
            queue += [b.id if isinstance(b, ast.Name) else getattr(b, "attr", "") for b in classes[current].bases]
    return nodes, names


def _methods(node: ast.ClassDef) -> set[str]:
    """Return the methods that a class body defines; an alias (`reference = attend`) defines one too."""
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Name):
            methods |= {target.id for target in item.targets if isinstance(target, ast.Name)}
    return methods


def _is_constructor(item: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    return isinstance(item, ast.FunctionDef) and item.name == "__init__"


@lru_cache
def _contract_facts(kind: str) -> dict[str, Any]:
    """Return the literal attributes of a contract's class: the facts of a card, with their defaults."""
    tree = ast.parse((PACKAGE / "contracts" / f"{kind}.py").read_bytes())
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == CONTRACTS[kind])
    return _literals(node, kind, must_be_literal=())


def _literals(node: ast.ClassDef, plugin: str, must_be_literal: Collection[str]) -> dict[str, Any]:
    """Return name -> value of the literals in a class body; `UsageError` where one of `must_be_literal` is none."""
    literals: dict[str, Any] = {}
    for item in node.body:
        if isinstance(item, ast.Assign):
            names = [target.id for target in item.targets if isinstance(target, ast.Name)]
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            names = [item.target.id]
        else:
            continue
        if item.value is None:
            continue
        try:
            value = ast.literal_eval(item.value)
        except (ValueError, TypeError, SyntaxError):
            facts = [name for name in names if name in must_be_literal]
            if facts:
                raise UsageError(
                    f"'{plugin}': `{facts[0]}` in class {node.name} must be a plain literal, because listing and "
                    "planning read it without running the file"
                ) from None
            continue
        literals.update(dict.fromkeys(names, value))
    return literals


def _constructor(init: ast.FunctionDef | None, kind: str, name: str) -> tuple[dict[str, Any], list[str]]:
    """Return a constructor's hyper-parameters with their defaults, and which harness arguments it takes."""
    if init is None:
        return {}, []
    params: dict[str, Any] = {}
    takes: list[str] = []
    positional = [*init.args.posonlyargs, *init.args.args]
    for arg in positional[2 if kind == "mechanism" else 1 :]:  # after self, and of a mechanism the slot
        if arg.arg not in HARNESS_ARGUMENTS[kind]:
            raise UsageError(
                f"{kind} '{name}': hyper-parameters are keyword-only, and `{arg.arg}` is not (line {arg.lineno}): "
                f"write a * before it, as in `*, {arg.arg}=...`"
            )
        takes.append(arg.arg)
    for arg, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        if arg.arg in HARNESS_ARGUMENTS[kind]:
            # a wrapper of one has the default None for its `second`
            takes += [] if isinstance(default, ast.Constant) and default.value is None else [arg.arg]
            continue
        try:
            params[arg.arg] = REQUIRED if default is None else ast.literal_eval(default)
        except (ValueError, TypeError, SyntaxError):
            raise UsageError(
                f"{kind} '{name}': the default of `{arg.arg}` must be a plain literal (line {arg.lineno})"
            ) from None
    return params, takes
