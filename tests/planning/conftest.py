"""Options beside those of conf/, as an installed package brings them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cab.paths import beside
from cab.planning import overrides

AddOption = Callable[[str, str, object], None]
AddGrid = Callable[[list[list[str]]], None]


@pytest.fixture
def add_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddOption]:
    """Give a function that writes an option: group, name, content."""
    folder = tmp_path / "conf"
    monkeypatch.setattr(overrides, "folders", lambda: [beside("conf"), folder])

    def add(group: str, name: str, content: object) -> None:
        (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / group / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML
        overrides.node.cache_clear()

    yield add
    overrides.node.cache_clear()


@pytest.fixture
def add_grid(add_option: AddOption) -> AddGrid:
    """Give a function that writes the grid `g`, of these blocks."""
    return lambda blocks: add_option("grid", "g", {"blocks": blocks})


@pytest.fixture
def wrapper(elsewhere: Path) -> str:
    """Write a wrapper of a user's, with a hyper-parameter `times`, and return its name."""
    (elsewhere / "wrap.py").write_text(WRAPPER)
    return "./wrap.py:Doubled"


WRAPPER = """
from cab import Mechanism
class Doubled(Mechanism):
    patterns = "inner"
    def __init__(self, slot, *, inner, times: float = 2.0):
        super().__init__(slot)
        self.inner, self.times = inner, times
        self.grade, self.reads, self.inputs = inner.grade, inner.reads, inner.inputs
    def attend(self, *args, **inputs):
        return self.times * self.inner.attend(*args, **inputs)
"""
