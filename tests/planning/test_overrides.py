"""Hydra's grammar and composition: overrides are read, and options of conf/ are found and put together."""

from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.paths import beside
from cab.planning import overrides
from cab.planning.overrides import node, options, parse
from cab.planning.points import points
from cab.plugins import registry

YAMLS = sorted((beside("conf")).glob("*/*.yaml"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seq_len=512", [512]),
        ("seq_len=512,1024", [512, 1024]),
        ("seed=range(1,4)", [1, 2, 3]),
        ("training.lr=1e-3", [0.001]),
        ("meters=[latency,flops]", [["latency", "flops"]]),
        ("mechanism=./my_file.py:Mine,softmax", ["./my_file.py:Mine", "softmax"]),
        ("memory_limit='8 GiB'", ["8 GiB"]),
        ("grid=null", [None]),
        ('meters=["latency"],["memory"]', [["latency"], ["memory"]]),
        ("mechanism.x={a:'b'}", [{"a": "b"}]),
    ],
)
def test_hydras_grammar_is_understood(text: str, values: list[object]) -> None:
    assert list(parse([text]).values()) == [values]


def test_glob_expands_names_and_an_empty_sweep_is_an_error() -> None:
    assert {"softmax", "linear", "none"} <= set(parse(["mechanism=glob(*)"])["mechanism"])
    assert parse(["mechanism=glob(so*)"])["mechanism"] == ["softmax"]
    assert parse(["mechanism@mechanism.inner=glob(so*)"]) == {"mechanism@mechanism.inner": ["softmax"]}
    with pytest.raises(UsageError, match="empty sweep"):
        parse(["seq_len=glob(*)"])


def test_a_glob_of_mechanisms_leaves_out_wrappers() -> None:
    wrappers = [
        name for name in registry.names("mechanism") if registry.card("mechanism", name).facts["patterns"] == "inner"
    ]
    names = parse(["mechanism=glob(*)"])["mechanism"]
    assert wrappers and not set(wrappers) & set(names) and len(wrappers) + len(names) == len(options("mechanism"))


def test_a_later_override_of_a_key_replaces_the_earlier() -> None:
    assert parse(["seed=1", "seed=2"]) == {"seed": [2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("+x=1", r"write key=value without \+"),
        ("seed", "'seed' is not an override"),
        ("seed=[1", "cannot read 'seed="),
        ("seq_len=range(1,2,0)", r"cannot expand 'seq_len=range\(1,2,0\)'"),
        ("mechanism@other=local", r"without \+, ~ or @"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(["mechanism=linear", text])


def test_planning_leaves_a_hydra_application_as_it_was(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    (tmp_path / "app.yaml").write_text("x: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        points(["mechanism=softmax", "task=speed"])
        assert GlobalHydra.instance().hydra is before and compose("app").x == 1


def test_an_option_that_builds_on_another_is_composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mechanism"
    folder.mkdir()
    (folder / "plain.yaml").write_text("name: linear\nchunk: 64\n")
    (folder / "wide.yaml").write_text("defaults: [plain, _self_]\nchunk: 256\n")
    monkeypatch.setattr(overrides, "folders", lambda: [tmp_path])
    assert node.__wrapped__("mechanism", "wide") == {"name": "linear", "chunk": 256}


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_options_yaml_is_self_contained(path: Path) -> None:
    text = path.read_text()
    assert "override " not in text and "@package" not in text and "${" not in text
    assert "defaults:" not in text or "_self_" in text


@pytest.mark.parametrize("name", registry.names("mechanism"))
def test_a_plain_option_reads_as_hydra_composes_it(name: str) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(beside("conf").absolute()), version_base="1.3"):
        composed = OmegaConf.to_container(compose(f"mechanism/{name}")["mechanism"])
    assert composed == node("mechanism", name)
