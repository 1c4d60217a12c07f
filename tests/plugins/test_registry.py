"""Names are plug-ins of our folders, of a user's file and of installed packages."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from cab.errors import UsageError
from cab.plugins import registry


def test_an_installed_package_brings_plugins_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "attention.py").write_text(
        "from cab import Mechanism\nclass Pluggy(Mechanism):\n    patterns = {'NS': 'native'}\n"
    )
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cab.mechanisms]\npluggy = their_package.attention:Pluggy\nsoftmax = their_package.attention:Pluggy\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget() -> None:
        registry._entry_points.cache_clear()
        registry._sources.cache_clear()

    forget()
    try:
        assert registry.card("mechanism", "pluggy").class_name == "Pluggy"
        assert "their_package" not in sys.modules
        with pytest.raises(UsageError, match="two plug-ins are called mechanism 'softmax': .* and their_package"):
            registry.card("mechanism", "softmax")
    finally:
        forget()


def test_a_class_that_derives_from_nothing_of_ours_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    patterns = {'NS': 'native'}\n")
    with pytest.raises(UsageError, match=r"the class Mine must derive from cab\.Mechanism"):
        registry.load("mechanism", f"{tmp_path / 'mine.py'}:Mine")


def test_a_class_called_as_ours_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mechanism: ...\n\nclass Mine(Mechanism):\n    patterns = {'NS': 'native'}\n"
    )
    with pytest.raises(UsageError, match=r"the class Mine must derive from cab\.Mechanism"):
        registry.load("mechanism", f"{tmp_path / 'mine.py'}:Mine")


def test_a_file_that_exits_when_it_is_imported_does_not_end_the_command(tmp_path: Path) -> None:
    text = (
        "from cab import Mechanism\n\nclass Mine(Mechanism):\n    patterns = {'NS': 'native'}\n\nraise SystemExit(0)\n"
    )
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=r"mine\.py\) does not import: SystemExit: 0"):
        registry.load("mechanism", f"{tmp_path / 'mine.py'}:Mine")


class EditableFinder(importlib.abc.MetaPathFinder):
    """As setuptools installs one for an editable package: it maps a top-level name to a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        where = self.folder / "__init__.py"
        return importlib.util.spec_from_file_location(fullname, where, submodule_search_locations=[str(self.folder)])


def entry_points_of(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = EntryPoints(EntryPoint(name, value, "cab.mechanisms") for name, value in values.items())
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    registry._sources.cache_clear()


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    registry._sources.cache_clear()


def test_an_editable_package_is_found_by_its_own_finder_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "src" / "their_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('the package was imported')\n")
    (folder / "attention.py").write_text(
        "from cab import Mechanism\n\n\nclass Theirs(Mechanism):\n    patterns = {'NS': 'native'}\n"
    )
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, EditableFinder("their_package", folder)])
    entry_points_of(monkeypatch, theirs="their_package.attention:Theirs")
    assert registry.card("mechanism", "theirs").class_name == "Theirs"


def test_a_broken_package_costs_only_who_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points_of(monkeypatch, broken="nowhere.at_all:Class")
    assert registry.card("mechanism", "softmax").class_name == "Softmax"
    assert "broken" in registry.names("mechanism")
    with pytest.raises(UsageError, match="names a module that is not installed"):
        registry.card("mechanism", "broken")
    assert isinstance(registry.cards_of("mechanism")["broken"], UsageError)


def test_a_file_that_was_edited_is_imported_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = "from cab import Mechanism\n\n\nclass Mine(Mechanism):\n    size = 1\n"
    for size in (1, 2):
        file.write_text(text.replace("1", str(size)))
        assert registry.load("mechanism", f"{file}:Mine").size == size  # type: ignore[attr-defined]


def test_a_helper_that_was_edited_is_imported_as_it_is_now(tmp_path: Path) -> None:
    imports = "from edited_helper_of_a_test import SCALE\nfrom cab import Mechanism\n"
    (tmp_path / "p.py").write_text(f"{imports}\n\nclass P(Mechanism):\n    scale = SCALE\n")
    for scale in (1, 20):  # of another length: Python's own cache tells files of one second apart by their size
        (tmp_path / "edited_helper_of_a_test.py").write_text(f"SCALE = {scale}\n")
        assert registry.load("mechanism", f"{tmp_path}/p.py:P").scale == scale  # type: ignore[attr-defined]


def test_two_helpers_of_one_name_are_refused(tmp_path: Path) -> None:
    plug_in = (
        "from helper_of_a_test import SCALE\nfrom cab import Mechanism\n\n\nclass P(Mechanism):\n    scale = SCALE\n"
    )
    for name, scale in (("one", 1), ("same", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.py").write_text(plug_in)
        (tmp_path / name / "helper_of_a_test.py").write_text(f"SCALE = {scale}\n")
    assert registry.load("mechanism", f"{tmp_path}/one/p.py:P").scale == 1  # type: ignore[attr-defined]
    assert registry.load("mechanism", f"{tmp_path}/same/p.py:P").scale == 1  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="two modules are called helper_of_a_test: .*one.* and .*two.*: rename one"):
        registry.load("mechanism", f"{tmp_path}/two/p.py:P")
