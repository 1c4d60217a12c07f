"""A fingerprint follows the source and what it imports; words in comments and docstrings change none."""

from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.plugins import fingerprint, registry


def read_anew(path: Path) -> str:
    """Return the fingerprint of a file; two writes within one tick of the file system's clock look alike."""
    fingerprint._read.cache_clear()
    return fingerprint.of(path)


def test_comments_and_docstrings_change_no_fingerprint_and_an_import_does(tmp_path: Path) -> None:
    mine, helper = tmp_path / "mine.py", tmp_path / "helper.py"
    helper.write_text("x = 1\n")
    mine.write_text("import helper\nfrom cab.ops.softmax import visible\n")
    first = fingerprint.of(mine)
    for words in ("# a comment\n", '"""A docstring."""\n\n'):
        mine.write_text(f"{words}import helper\n\n\nfrom cab.ops.softmax import visible\n")
        assert read_anew(mine) == first
    helper.write_text('"""A docstring."""\nx = 1\n')
    assert read_anew(mine) == first
    helper.write_text("x = 2\n")
    assert read_anew(mine) != first
    mine.write_text("import helper\n")
    assert read_anew(mine) != first


def test_a_file_that_changes_in_a_long_process_is_read_anew(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("x = 1\n")
    before = fingerprint.of(mine)
    mine.write_text("x = 1000\n")
    assert fingerprint.of(mine) != before


def test_a_package_may_name_its_modules_from_the_folder_it_lies_in(tmp_path: Path) -> None:
    mine, package = tmp_path / "mine.py", tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fast.py").write_text("from kernels.sizes import WIDTH\n")
    (package / "sizes.py").write_text("WIDTH = 1\n")
    mine.write_text("from kernels.fast import scan\n")
    before = fingerprint.of(mine)
    (package / "sizes.py").write_text("WIDTH = 2\n")
    assert read_anew(mine) != before


def test_packages_beside_a_users_file_are_part_of_its_fingerprint(tmp_path: Path) -> None:
    mine, package = tmp_path / "mine.py", tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fast.py").write_text("from . import low, high\n")
    for name in ("low", "high"):
        (package / f"{name}.py").write_text("x = 1\n")
    mine.write_text("from kernels.fast import scan\n")
    hashes = {fingerprint.of(mine)}
    for name in ("__init__", "fast", "low", "high"):
        imports = "from . import low, high\n" if name == "fast" else ""
        (package / f"{name}.py").write_text(f"x = '{name}'\n{imports}")
        hashes.add(read_anew(mine))
    assert len(hashes) == 5


def test_installed_packages_count_by_version_in_a_users_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("import json\nimport torch\nfrom cab import Mechanism\n")
    before, ours = fingerprint.of(mine), fingerprint.of(registry.card("mechanism", "softmax").path)
    monkeypatch.setattr(fingerprint, "_version", lambda package: "another" if package == "torch" else None)
    assert fingerprint.of(mine) != before and fingerprint.of(registry.card("mechanism", "softmax").path) == ours


def test_a_module_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def broken(:\n")
    (tmp_path / "mine.py").write_text("import helper\n")
    with pytest.raises(UsageError, match="helper.py is not valid Python"):
        fingerprint.of(tmp_path / "mine.py")


def test_a_fingerprint_covers_the_contract_behind_the_lazy_names(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("from cab import Mechanism\n")
    _, imported_files, _ = fingerprint._read(mine, tmp_path)
    assert "mechanism.py" in {path.name for path in imported_files}


def test_the_fingerprint_of_data_is_of_the_named_files_alone(tmp_path: Path) -> None:
    assert fingerprint.of_data(tmp_path, ("mine",)) == ""
    (tmp_path / "mine" / "inside").mkdir(parents=True)
    (tmp_path / "mine" / "inside" / "file").write_text("1")
    one = fingerprint.of_data(tmp_path, ("mine",))
    (tmp_path / "other").write_text("1")
    assert one and fingerprint.of_data(tmp_path, ("mine",)) == one
    (tmp_path / "mine" / "inside" / "lost").symlink_to("nowhere")
    assert fingerprint.of_data(tmp_path, ("mine",)) != one


def test_files_that_hyperparameters_name_are_found(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text("x = 1\n")
    params = {"mask": "./mine.py:past", "other": "./gone.py:past", "window": 3, "name": "past"}
    assert fingerprint.named_files(params) == ("./mine.py",)
    assert fingerprint.named_files({"inner": {"name": "masked", **params}}) == ("./mine.py",)
