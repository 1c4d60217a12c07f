"""The map of the project, held against every import: which package may import which.

A package may import itself and the packages of its line. Imports inside functions count like any others, and so do
those for the type checker. The modules beside the packages have a line each.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# package (or module beside the packages) -> what it may import of this project. Lower lines import from upper ones.
MAY_IMPORT = {
    # below all
    "errors": "",
    "public_names": "",
    "paths": "",
    "intervals": "",
    # what everybody agrees on, and what plug-ins are made of
    "contracts": "errors",
    "ops": "contracts errors",  # maths that several mechanisms share
    "backbones": "contracts errors",  # models with slots
    "data": "errors",  # downloads, readers, generators, splits
    "suites": "backbones data contracts errors",  # classes that several tasks derive from
    "mechanisms": "ops contracts errors",
    "tasks": "suites backbones data contracts errors",
    # without torch: what is asked, what is kept, and who does the work
    "environment": "contracts paths",
    "plugins": "environment contracts paths public_names errors",
    "planning": "plugins environment contracts paths errors",
    "store": "environment contracts paths errors",
    "runner": "planning store plugins environment contracts paths errors",
    "analysis": "plugins contracts paths intervals errors",
    "report": "analysis plugins contracts paths errors",
    "terminal": "runner report planning store plugins environment contracts paths errors",
    "tracking": "terminal planning plugins environment contracts paths intervals errors cab",  # speed regressions
    # with torch
    "attention": "plugins contracts errors",  # a mechanism put into place
    "instruments": "intervals errors",
    "meters": "attention instruments contracts intervals errors",
    "conformance": "attention instruments plugins contracts paths errors",
    "training": "backbones contracts paths errors",
    "worker": "conformance training attention instruments plugins environment contracts paths errors",
    "commands": "worker conformance attention planning plugins environment contracts paths errors",
    # above all
    "api": "terminal runner planning store plugins attention contracts errors",
    "cli": "tracking terminal runner store cab errors",
    "cab": "api contracts errors public_names",  # cab/__init__.py: public names, fetched when first used
}
# package -> packages that its functions alone may import
IN_FUNCTIONS = {"cli": "commands"}
MOST_BESIDE = 7  # modules beside the packages in `cab/`
# what must import without torch: `--help`, `list`, `show`, TAB, `--dry-run`, `report`, and the supervisor's own work
TORCH_FREE = (
    "errors public_names paths intervals environment plugins planning store runner analysis report terminal tracking "
    "api cli cab"
).split()
TORCH_FREE_MODULES = (
    "contracts.case",
    "contracts.meter",
    "contracts.pattern",
    "contracts.recipe",
    "contracts.slot",
    "worker.fork_server",
    "worker.jobs",
    "worker.preflight",
    "instruments.allocator",
    "meters",
)
# functions of these modules import torch, for they do their work where it is there
TORCH_INSIDE = ("worker", "instruments", "meters", "tracking.worker")
# too slow for `--help` and TAB
SLOW = ("torch", "numpy", "pandas", "pyarrow", "plotly", "scipy", "hydra", "omegaconf")
# packages of kernels: a backend's function asks for them, and it is refused where they are missing
KERNELS = ("flash_attn", "fla", "natten")
PLUGINS = ("mechanisms", "tasks", "meters")
VAGUE = ("utils", "util", "helpers", "common", "base", "misc")


@dataclass(frozen=True)
class Import:
    """One imported module: who imports it, where, and whether it runs when the importer is imported."""

    importer: str
    target: str
    line: int
    inside: bool  # a function
    typing: bool  # under TYPE_CHECKING

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


@cache
def sources() -> dict[str, Path]:
    """Return module -> file of all that is `cab` once installed."""
    found = {}
    for folder in ("cab", "mechanisms", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            found[name if folder == "cab" else f"cab.{name}"] = path
    return {**found, "cab.cli": ROOT / "cli.py"}


@cache
def imports() -> tuple[Import, ...]:
    """Return every import of every module."""
    return tuple(each for module, path in sources().items() for each in imports_of(module, path.read_text()))


def imports_of(module: str, text: str) -> Iterator[Import]:
    """Yield the imports of one file, each name resolved to the module that it comes from."""

    def walk(node: ast.AST, inside: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            for target in targets(child):
                yield Import(module, target, getattr(child, "lineno", 0), inside, typing)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from walk(child, inside or function, typing or checking)

    yield from walk(ast.parse(text), False, False)


def targets(node: ast.AST) -> list[str]:
    """Return the modules that a statement imports; a literal in `import_module` counts."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative imports hide where an arrow goes"
        return [resolved(node.module or "", alias.name) for alias in node.names]
    if isinstance(node, ast.Call) and "import_module" in ast.dump(node.func) and isinstance(node.args[0], ast.Constant):
        return [str(node.args[0].value)]
    return []


def resolved(module: str, name: str) -> str:
    """Return where `from module import name` takes it from: a submodule, or what `cab` hands out by that name."""
    if module == "cab" and name in handed_out():
        return handed_out()[name]
    return f"{module}.{name}" if f"{module}.{name}" in sources() else module


@cache
def handed_out() -> dict[str, str]:
    """Return `cab`'s public names -> the modules that they live in."""
    from cab.public_names import PUBLIC_NAMES

    return dict(PUBLIC_NAMES)


def package(module: str) -> str:
    """Return the package of a module of `cab`, or the name of a module beside the packages."""
    return module.removeprefix("cab.").split(".")[0]


def is_ours(module: str) -> bool:
    """Whether a module is part of `cab`."""
    return module.split(".")[0] == "cab"


def within(module: str, names: tuple[str, ...]) -> bool:
    """Whether a module is one of `names` or inside one."""
    own = module.removeprefix("cab.")
    return any(own == name or own.startswith(f"{name}.") for name in names)


def test_every_package_has_a_line_and_every_line_a_package() -> None:
    there = {package(module) for module in sources()}
    assert there == set(MAY_IMPORT), "give a new package a line in MAY_IMPORT, and take out what is gone"


def test_few_modules_stand_beside_the_packages() -> None:
    beside = [path.name for path in (ROOT / "cab").glob("*.py")]
    assert len(beside) <= MOST_BESIDE, f"{beside}: give a new module a package"


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for each in imports():
        ours, theirs = package(each.importer), package(each.target)
        if not is_ours(each.target) or ours == theirs:
            continue
        in_function = each.inside and theirs in IN_FUNCTIONS.get(ours, "").split()
        if theirs not in MAY_IMPORT[ours].split() and not in_function:
            wrong.append(f"{each}: {ours} may not import {theirs}")
    assert not wrong, "\n".join(wrong)


def test_no_arrow_is_left_over() -> None:
    used = {(package(each.importer), package(each.target)) for each in imports() if is_ours(each.target)}
    left = [
        f"{ours} -> {theirs}"
        for ours, arrows in [*MAY_IMPORT.items(), *IN_FUNCTIONS.items()]
        for theirs in arrows.split()
        if (ours, theirs) not in used
    ]
    assert not left, f"nothing uses {left}: take them out of MAY_IMPORT"


def test_arrows_go_one_way() -> None:
    above: dict[str, set[str]] = {name: set(arrows.split()) for name, arrows in MAY_IMPORT.items()}
    above["cli"].discard("cab")  # for the version alone
    while any(above.values()):
        ground = {name for name, below in above.items() if not below}
        assert ground, f"packages import each other in a circle: {above}"
        above = {name: below - ground for name, below in above.items() if name not in ground}


def torch_free() -> list[str]:
    """Name the modules that must import without torch."""
    return [
        module
        for module in sources()
        if package(module) in TORCH_FREE or within(module, TORCH_FREE_MODULES) or module == "cab.contracts"
    ]


def reached(module: str) -> dict[str, Import]:
    """Return what importing a module imports, at whatever distance, with the import that first leads there."""
    at_import: dict[str, list[Import]] = {}
    for each in imports():
        if not each.inside and not each.typing:
            at_import.setdefault(each.importer, []).append(each)
    found: dict[str, Import] = {}
    queue = [module]
    while queue:
        current = queue.pop()
        parents = [".".join(current.split(".")[:depth]) for depth in range(1, current.count(".") + 1)]
        for each in [e for name in (*parents, current) for e in at_import.get(name, [])]:
            if each.target not in found:
                found[each.target] = each
                queue.append(each.target)
    return found


def test_what_must_work_without_torch_never_reaches_it() -> None:
    wrong = [
        f"importing {module} imports torch: {by}"
        for module in torch_free()
        for target, by in reached(module).items()
        if target.split(".")[0] == "torch"
    ]
    assert not wrong, "\n".join(wrong)


def test_what_must_work_without_torch_imports_it_in_no_function_either() -> None:
    found = {each for each in imports() if each.target.split(".")[0] == "torch" and each.importer in torch_free()}
    wrong = [str(each) for each in found if not within(each.importer, TORCH_INSIDE)]
    assert not wrong, "\n".join(wrong)


def test_they_do_import_without_torch() -> None:
    code = f"import sys\nfor name in {torch_free()}: __import__(name)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize("module", ["cab", "cab.cli"])
def test_nothing_slow_is_imported_before_a_command_needs_it(module: str) -> None:
    code = f"import sys, {module}\nprint([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=100, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_plugins_are_loaded_by_name() -> None:
    wrong = [
        str(each)
        for each in imports()
        if (within(each.target, PLUGINS) and is_ours(each.target))
        or each.target.split(".")[0] in ("mechanisms", "tasks")
        if each.target not in {f"cab.{kind}" for kind in PLUGINS}
    ]
    assert not wrong, "\n".join(wrong)


def test_mechanisms_need_torch_alone_and_a_backend_its_kernels() -> None:
    wrong = [
        str(each)
        for each in imports()
        if within(each.importer, ("mechanisms", "ops"))
        and not is_ours(each.target)
        and each.target.split(".")[0] not in {"torch", *sys.stdlib_module_names, *(KERNELS if each.inside else ())}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_public_name_is_a_submodule_too() -> None:
    import cab

    # importing the submodule would put the module in the name's place; in a checkout the root is searched as well
    for folder in map(Path, cab.__path__):
        both = [name for name in cab.__all__ if (folder / f"{name}.py").exists() or (folder / name).is_dir()]
        assert not both, f"{both} in {folder}"


def test_nothing_imports_cab_a_second_time() -> None:
    for folder in ("cab", "mechanisms", "tasks", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"^\s*(import|from) cab\.cab\b", path.read_text(), re.MULTILINE), path
    assert not any(each.target.startswith("cab.cab.") or each.target == "cab.cab" for each in imports())


def test_a_file_has_a_name_that_says_something() -> None:
    for path in sources().values():
        assert path.stem not in VAGUE and path.parent.name not in VAGUE, f"{path}: what is it about?"


def test_the_architecture_page_has_every_place_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    places = re.findall(r"^\| an? .+? \| (.+?) \|", page, re.MULTILINE)
    shown = {name.strip("/") for cell in places for name in re.findall(r"`([\w./-]+)`", cell)}
    gone = [name for name in shown if not (ROOT / name).exists()]
    assert not gone, f"docs/architecture.md shows {gone}, which do not exist"
    tree = [*(ROOT / "cab").iterdir(), *(p for p in ROOT.iterdir() if p.is_dir() or p.suffix == ".py")]
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()} | {"cab", "cab/__init__.py"}
    names = {p.relative_to(ROOT).as_posix() for p in tree if p.name[0] not in "._" and p.suffix in ("", ".py")}
    missing = sorted(name for name in names if name not in shown and name not in ignored)
    assert not missing, f"docs/architecture.md lacks {missing}: say what goes there"


def test_the_walk_sees_every_kind_of_import() -> None:
    text = """
from typing import TYPE_CHECKING
import cab.store.table
from cab import Mechanism, environment
if TYPE_CHECKING:
    import pandas
def late():
    from cab.report import notes
    import_module("cab.attention.layer")
"""
    found = [(i.target, i.inside, i.typing) for i in imports_of("cab.x", text)]
    assert found == [
        ("typing", False, False),
        ("cab.store.table", False, False),
        ("cab.contracts.mechanism", False, False),
        ("cab.environment", False, False),
        ("pandas", False, True),
        ("cab.report.notes", True, False),
        ("cab.attention.layer", True, False),
    ]
    with pytest.raises(AssertionError, match="relative imports"):
        list(imports_of("cab.x", "from . import y"))
