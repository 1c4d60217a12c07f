"""docs/commands.md shows what the commands print: all but numbers, paths, and what the machine decides."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text()
STALE = "run: python docs/scripts/commands.py --quick, or without it"


def script() -> ModuleType:
    """Load the script that makes the page."""
    spec = importlib.util.spec_from_file_location("commands_page", ROOT / "docs" / "scripts" / "commands.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


SCRIPT = script()
SHOWN = SCRIPT.parse(PAGE)


def lasting(command: str, printed: str) -> list[str]:
    """Return what should be the same everywhere, line by line; a table's order may follow the numbers."""
    lines = []
    for line in printed.splitlines():
        if re.match(r"\s*[≈⌊†]|\s*machine:|Warnings|No warnings", line):  # marks and warnings depend on the machine
            continue
        if command == "cab doctor":  # what a machine is stands after its name
            line = re.split(r"\s{2,}|^-", line)[0]
        line = re.sub(r"(on this CPU): .*", r"\1", line)
        line = re.sub(r"(already at|from|not at) \d.*", "", line)
        line = re.sub(r"±\d[\d.,]*(e[+-]\d+)?|[≈⌊†]|─+", "", line)
        line = re.sub(r"\d[\d.,]*(e[+-]\d+)?", "#", line)
        line = re.sub(r"\((s|ms|µs)\)", "(time)", line)
        line = re.sub(r"/\S*/", "/", line)
        line = re.sub(r"(# ?)+", "# ", line)
        lines.append(" ".join(line.split()))
    return sorted(filter(None, lines))


def test_commands_that_answer_at_once_print_what_the_page_shows(tmp_path: Path) -> None:
    printed = SCRIPT.run_all(tmp_path, torch=False)
    assert len(printed) > 10
    for command, output in printed.items():
        assert lasting(command, output) == lasting(command, SHOWN[command]), f"{command}: {STALE}"


@pytest.mark.long
def test_every_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    printed = SCRIPT.run_all(tmp_path)
    for command, output in printed.items():
        assert lasting(command, output) == lasting(command, SHOWN[command]), f"{command}: {STALE}"


def test_the_page_has_every_command_in_the_scripts_order() -> None:
    assert list(SHOWN) == [each.command for part in SCRIPT.PARTS.values() for each in part], STALE
    assert PAGE == SCRIPT.page(SHOWN), STALE


def test_the_comparison_leaves_numbers_paths_and_order_out_and_nothing_else() -> None:
    one = "softmax   2.63 ±4.55≈†   64.7 ±25.3†\nlinear  1.2 3\nsource /home/you/a.py\n  † stopped\nhead (ms)"
    two = "linear  700 1,024.5\nsoftmax 17 ±1e-3 3\nsource /tmp/x/a.py\nhead (µs)"
    assert lasting("", one) == lasting("", two)
    assert lasting("", one) != lasting("", two.replace("softmax", "agent"))
    assert lasting("", one) != lasting("", two.replace("a.py", "b.py"))
