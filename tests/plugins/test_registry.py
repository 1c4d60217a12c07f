"""Names are plug-ins of our folders, of a user's file and of installed packages."""

import sys
from pathlib import Path

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
