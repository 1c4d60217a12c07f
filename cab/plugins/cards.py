"""A plug-in's card: its declared facts and its hyper-parameters, read from the source without running it.

Listing and planning need no more than this, so that they import no torch. What is read is cached by content; a law
holds it equal to the class.
"""

import ast
import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cab.errors import UsageError, unknown
from cab.paths import PACKAGE, cache, write_whole

CONTRACTS = {"mechanism": "Mechanism", "task": "Task", "meter": "Meter"}
# what the harness gives a constructor by itself
GIVEN = {"mechanism": ("inner",), "task": ("seq_len", "source_len", "heads", "dim"), "meter": ()}
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
    takes: list[str] = field(default_factory=list)  # which of GIVEN its constructor takes

    @property
    def backends(self) -> list[str]:
        """Every computation of a mechanism that can be asked for by name."""
        own = [name.removeprefix("attend_") for name in self.methods if name.startswith("attend_")]
        return ["eager", *sorted(own), "compile"]

    @property
    def headline(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""


def read(kind: str, name: str, path: Path, class_name: str | None = None) -> Card:
    """Return the card of the plug-in in `path`; `UsageError` says what is wrong with the file."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{kind} '{name}': cannot read {path}: {error.strerror}") from error
    key = hashlib.sha256(b"\0".join([source, _contract_source(kind), f"{name} {path} {class_name}".encode()]))
    known = _cache()
    if key.hexdigest() not in known:
        known[key.hexdigest()] = asdict(_parse(kind, name, path, source, class_name))
        _cache_is_stale.add(True)
    return Card(**known[key.hexdigest()])


def keep() -> None:
    """Write what was newly read to the cache; a cache that cannot be written costs time only."""
    if _cache_is_stale:
        try:
            write_whole(cache() / "cards.json", json.dumps(_cache()))
        except OSError:
            pass
        _cache_is_stale.clear()


_cache_is_stale: set[bool] = set()


@lru_cache
def _cache() -> dict[str, dict[str, Any]]:
    try:
        known = json.loads((cache() / "cards.json").read_text())
    except (OSError, ValueError):
        return {}
    # a file of another version of this module, or of no version at all, is as good as none
    fits = isinstance(known, dict) and all(isinstance(c, dict) and set(c) == _FIELDS for c in known.values())
    return known if fits else {}


_FIELDS = set(Card.__dataclass_fields__)


@lru_cache
def _contract_source(kind: str) -> bytes:
    contract = (PACKAGE / "contracts" / f"{kind}.py").read_bytes() + Path(__file__).read_bytes()
    return contract + b"".join(_suite_sources().values() if kind == "task" else ())


def _parse(kind: str, name: str, path: Path, source: bytes, class_name: str | None) -> Card:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{kind} '{name}': {path} is not valid Python: {error}") from error
    contract = CONTRACTS[kind]
    own = _classes(tree)
    classes = _suites(tree) | own
    fitting = [c for c in own if contract in _chain(c, classes)[1] and not c.startswith("_")]
    if class_name is None:
        if len(fitting) != 1:
            found = ", ".join(fitting) or "none"
            raise UsageError(f"{kind} '{name}': {path} must hold one class derived from cab.{contract}; found {found}")
        class_name = fitting[0]
    elif class_name not in own:
        raise unknown(f"class in {path}", class_name, fitting)
    chain, _ = _chain(class_name, classes)
    facts, methods = dict(_contract_facts(kind)), []
    init: ast.FunctionDef | None = None
    for node in reversed(chain):  # the base first, so that the derived class overrides it
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                methods.append(item.name)
                init = item if item.name == "__init__" else init
            else:
                # an alias (`reference = attend`) defines a method too
                methods += [
                    t.id
                    for t in getattr(item, "targets", [])
                    if isinstance(t, ast.Name) and isinstance(item.value, ast.Name)  # type: ignore[attr-defined]
                ]
        facts.update(_literals(node, name, known=_contract_facts(kind)))
    if kind == "mechanism" and not (isinstance(facts["patterns"], dict) or facts["patterns"] == "inner"):
        raise UsageError(
            f"mechanism '{name}': `patterns` is {facts['patterns']!r}; write a dict of grades, as in {{'CS': 'native'}}"
        )
    params, takes = _hyperparameters(init, kind, name)
    doc = ast.get_docstring(tree) or ast.get_docstring(classes[class_name]) or ""
    # through JSON, so that a card from the cache and a fresh one are alike
    plain = json.loads(json.dumps([facts, params]))
    return Card(kind, name, str(path), class_name, plain[0], plain[1], sorted(set(methods)), doc, takes)


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _suites(tree: ast.Module) -> dict[str, ast.ClassDef]:
    """Return the classes of `cab.suites`, what several tasks share, that a file imports or that these rest on."""
    found: dict[str, ast.ClassDef] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cab.suites."):
            source = _suite_sources().get((node.module or "").removeprefix("cab.suites."))
            if source is None:
                raise UsageError(f"line {node.lineno} imports {node.module}, which is not there")
            inner = ast.parse(source)
            found |= _suites(inner) | _classes(inner)
    return found


@lru_cache
def _suite_sources() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((PACKAGE / "suites").glob("*.py"))}


def _chain(name: str, classes: dict[str, ast.ClassDef]) -> tuple[list[ast.ClassDef], list[str]]:
    """Return a class with its bases among `classes`, and the names of all bases, there or not."""
    chain, bases, queue = [], [], [name]
    while queue:
        current = queue.pop(0)
        bases.append(current)
        if current in classes and classes[current] not in chain:
            chain.append(classes[current])
            queue += [b.id if isinstance(b, ast.Name) else getattr(b, "attr", "") for b in classes[current].bases]
    return chain, bases


@lru_cache
def _contract_facts(kind: str) -> dict[str, Any]:
    tree = ast.parse((PACKAGE / "contracts" / f"{kind}.py").read_bytes())
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == CONTRACTS[kind])
    return _literals(node, kind, known={})


def _literals(node: ast.ClassDef, plugin: str, known: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for item in node.body:
        if isinstance(item, ast.Assign):
            names = [t.id for t in item.targets if isinstance(t, ast.Name)]
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            names = [item.target.id]
        else:
            continue
        if item.value is None:
            continue
        try:
            value = ast.literal_eval(item.value)
        except (ValueError, TypeError, SyntaxError):
            wrong = [n for n in names if n in known]
            if wrong:
                raise UsageError(
                    f"'{plugin}': `{wrong[0]}` in class {node.name} must be a plain literal, because listing and "
                    "planning read it without running the file"
                ) from None
            continue
        found.update(dict.fromkeys(names, value))
    return found


def _hyperparameters(init: ast.FunctionDef | None, kind: str, name: str) -> tuple[dict[str, Any], list[str]]:
    if init is None:
        return {}, []
    params, takes = {}, []
    placed = [*init.args.posonlyargs, *init.args.args][2 if kind == "mechanism" else 1 :]  # after self and the slot
    for arg in placed:
        if arg.arg not in GIVEN[kind]:
            raise UsageError(
                f"{kind} '{name}': hyper-parameters are keyword-only, and `{arg.arg}` is not (line {arg.lineno}): "
                f"write a * before it, as in `*, {arg.arg}=...`"
            )
        takes.append(arg.arg)
    for arg, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        if arg.arg in GIVEN[kind]:
            takes.append(arg.arg)
            continue
        try:
            params[arg.arg] = REQUIRED if default is None else ast.literal_eval(default)
        except (ValueError, TypeError, SyntaxError):
            raise UsageError(
                f"{kind} '{name}': the default of `{arg.arg}` must be a plain literal (line {arg.lineno})"
            ) from None
    return params, takes
