"""Overrides to points: Hydra's grammar, precedence, and messages that say what was given and what is accepted."""

from pathlib import Path

import pytest

from cab.contracts.recipe import Recipe
from cab.errors import UsageError
from cab.paths import beside
from cab.planning import overrides, schema
from cab.planning.overrides import node, options, parse, points
from cab.plugins import registry

YAMLS = sorted((beside("conf")).glob("*/*.yaml"))


def shown(*overrides: str) -> list[tuple[str, ...]]:
    found = points(["task=speed", *overrides])
    return [(p.mechanism.name, p.root["pattern"], str(p.root["seq_len"]), str(p.root["seed"])) for p in found]


def test_choices_multiply_with_the_last_key_fastest() -> None:
    assert shown("mechanism=softmax,none", "pattern=NS,CC", "seed=0,1") == [
        (mechanism, pattern, "1024", seed)
        for mechanism in ("softmax", "none")
        for pattern in ("NS", "CC")
        for seed in ("0", "1")
    ]


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
    ],
)
def test_hydras_grammar_is_understood(text: str, values: list[object]) -> None:
    assert list(parse([text]).values()) == [values]


def test_glob_expands_names_and_an_empty_sweep_is_an_error() -> None:
    assert {"softmax", "linear", "none"} <= set(parse(["mechanism=glob(*)"])["mechanism"])
    assert parse(["mechanism=glob(so*)"])["mechanism"] == ["softmax"]
    with pytest.raises(UsageError, match="empty sweep"):
        parse(["seq_len=glob(*)"])


def test_a_later_override_of_a_key_replaces_the_earlier() -> None:
    assert parse(["seed=1", "seed=2"]) == {"seed": [2]}


def test_a_hyperparameter_of_one_mechanism_applies_to_it_alone() -> None:
    found = points(["task=speed", "mechanism=softmax,linear", "mechanism.linear.chunk=8,16"])
    assert [(p.mechanism.name, p.params.get("chunk")) for p in found] == [
        ("softmax", None),
        ("linear", 8),
        ("linear", 16),
    ]


def test_a_hyperparameter_must_exist_in_every_chosen_mechanism() -> None:
    with pytest.raises(UsageError, match=r"mechanism 'softmax'.*Only some take it: mechanism\.linear\.chunk="):
        points(["task=speed", "mechanism=softmax,linear", "mechanism.chunk=8"])


def test_precedence_is_config_task_scale_grid_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    task = {
        "case": {"seq_len": 10, "batch": 10, "heads": 10, "dim": 10},
        "scales": {"quick": {"batch": 20, "heads": 20, "dim": 20}},
    }
    nodes = {("task", "speed"): task, ("grid", "g"): {"blocks": [["task=speed", "heads=30", "dim=30"]]}}
    real = overrides.node
    monkeypatch.setattr(overrides, "node", lambda group, name: nodes.get((group, name)) or real(group, name))
    monkeypatch.setattr(overrides, "options", lambda group: ["g"] if group == "grid" else options(group))
    (point,) = points(["mechanism=none", "grid=g", "dim=40"])
    assert {key: point.root[key] for key in ("seq_len", "batch", "heads", "dim")} == {
        "seq_len": 10,
        "batch": 20,
        "heads": 30,
        "dim": 40,
    }


def test_the_blocks_of_a_grid_add_up_and_the_users_keys_replace_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [["mechanism=softmax", "pattern=NS,CS"], ["mechanism=linear", "pattern=CC"]]
    real = overrides.node
    monkeypatch.setattr(overrides, "node", lambda g, n: {"blocks": blocks} if g == "grid" else real(g, n))
    monkeypatch.setattr(overrides, "options", lambda g: ["g"] if g == "grid" else options(g))
    assert [row[:2] for row in shown("grid=g")] == [("softmax", "NS"), ("softmax", "CS"), ("linear", "CC")]
    assert [row[:2] for row in shown("grid=g", "pattern=NC")] == [("softmax", "NC"), ("linear", "NC")]


def test_who_narrows_a_grid_drops_what_it_says_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [["mechanism=linear,agent", "mechanism.linear.chunk=8", "mechanism.agent.agents=16"]]
    real = overrides.node
    monkeypatch.setattr(overrides, "node", lambda g, n: {"blocks": blocks} if g == "grid" else real(g, n))
    monkeypatch.setattr(overrides, "options", lambda g: ["g"] if g == "grid" else options(g))
    (point,) = points(["grid=g", "task=speed", "mechanism=linear"])
    assert point.params["chunk"] == 8


def test_a_block_of_a_grid_keeps_those_of_the_chosen_mechanisms_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [["mechanism=softmax", "backend=sdpa"], ["mechanism=linear,softmax"], ["mechanism=agent", "dim=8"]]
    real = overrides.node
    monkeypatch.setattr(overrides, "node", lambda g, n: {"blocks": blocks} if g == "grid" else real(g, n))
    monkeypatch.setattr(overrides, "options", lambda g: ["g"] if g == "grid" else options(g))

    def chosen(names: str) -> list[tuple[str, str, int]]:
        found = points(["grid=g", "task=speed", f"mechanism={names}"])
        return [(point.mechanism.name, point.root["backend"], point.root["dim"]) for point in found]

    assert chosen("linear") == [("linear", "eager", 64)]  # no block of softmax's asks it for sdpa
    assert chosen("agent") == [("agent", "eager", 8)]
    assert chosen("softmax,agent") == [("softmax", "sdpa", 64), ("softmax", "eager", 64), ("agent", "eager", 8)]
    assert chosen("gla") == [("gla", "eager", 64)]  # no block names it: the first that asks for no backend
    found = points(["grid=g", "task=speed", "mechanism=softmax,linear", "mechanism.linear.chunk=8"])
    assert [(p.mechanism.name, p.params.get("chunk")) for p in found] == [
        ("softmax", None), ("softmax", None), ("linear", 8),
    ]  # fmt: skip
    blocks[1:] = []
    assert chosen("gla") == [("gla", "sdpa", 64)]  # refused by name later, and not dropped


def test_a_key_of_one_mechanism_is_for_the_blocks_that_hold_it(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    blocks = [["mechanism=softmax,linear"], ["mechanism=softmax", "backend=sdpa"]]
    real = overrides.node
    monkeypatch.setattr(overrides, "node", lambda g, n: {"blocks": blocks} if g == "grid" else real(g, n))
    monkeypatch.setattr(overrides, "options", lambda g: ["g"] if g == "grid" else options(g))

    def chunks(*overrides: str) -> list[int | None]:
        return [point.params.get("chunk") for point in points(["grid=g", "task=speed", *overrides])]

    assert chunks("mechanism.linear.chunk=8") == [None, 8, None]
    assert chunks("mechanism.Linear.chunk=8", "mechanism=softmax,linear") == [None, 8, None]
    (elsewhere / "mine.py").write_text(
        "from cab import Mechanism\n\n\nclass Mine(Mechanism):\n    patterns = {'NS': 'native'}\n\n"
        "    def __init__(self, slot, *, chunk=1):\n        super().__init__(slot)\n"
    )
    assert chunks("mechanism=./mine.py:Mine,softmax", "mechanism.Mine.chunk=4") == [4, None, None]
    blocks[0] = ["mechanism=linear"]
    with pytest.raises(UsageError, match="no block of grid=g holds a mechanism that this is for"):
        chunks("mechanism=softmax,linear", "mechanism@mechanism.inner=agent")
    with pytest.raises(UsageError, match="unknown mechanism in 'mechanism.agent.agents'"):
        chunks("mechanism.agent.agents=8")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mechanism=softmax", "task=speed", "backend=[eager]"], "backend=.*give a name"),
        (["mechanism=softmax", "task=speed", "scale=papr"], "unknown scale of speed 'papr'.*did you mean 'paper'"),
        (["mechanism=softmax", "task=speed", "scale=[quick]"], "unknown scale of speed"),
        (["mechanism=softmax", "task=recall_ns", "training.betas=0.9,0.98"], "give a list of two"),
        (["mechanism=softmax", "task=recall_ns", "training.betas=[0.9,1]"], "training.betas=1: .* below 1"),
        (["mechanism=softmax", "task=recall_ns", "training.eps=x"], "training.eps=x: expected a number above 0"),
        (["mechanism=sofmax"], "unknown mechanism 'sofmax'; did you mean 'softmax'"),
        (["mechanism=softmax", "task=sped"], "unknown task 'sped'; did you mean 'speed'"),
        (["mechanism=softmax", "pattern=XS"], "unknown pattern 'XS'.*Accepted: CC, CS, NC, NS"),
        (["mechanism=softmax", "sequence=3"], "unknown key 'sequence'"),
        (["mechanism=softmax", "seq_length=3"], "did you mean 'seq_len'"),
        (["mechanism=softmax", "training.lrr=3"], "did you mean 'training.lr'"),
        (["mechanism=softmax", "trainer.lr=3"], "unknown key 'trainer.lr'"),
        (["mechanism=softmax", "seq_len=0"], "seq_len=0: expected a whole number of at least 1"),
        (["mechanism=softmax", "batch=-1"], "batch=-1"),
        (["mechanism=softmax", "seq_len=99999999999999999999"], r"expected a whole number below 2\*\*31"),
        (["mechanism=softmax", "heads=3", "kv_heads=2"], "kv_heads=2: it must divide heads=3"),
        (["mechanism=softmax", "memory_limit=8"], "8 bytes are too few for any case; give at least 1MiB, as in 8GiB"),
        (["mechanism=softmax", "seq_len=abc"], "seq_len=abc"),
        (["mechanism=softmax", "seed=1.5"], "seed=1.5"),
        (["mechanism=softmax", "dtype=float31"], "did you mean 'float32'"),
        (["mechanism=softmax", "device=gpu"], "unknown device 'gpu'"),
        (["mechanism=softmax", "level=atend"], "did you mean 'attend'"),
        (["mechanism=softmax", "padding=1.0"], "padding=1.0: expected a number at least 0 and below 1"),
        (["mechanism=softmax", "timeout=0"], "timeout=0"),
        (["mechanism=softmax", "latency_limit=inf"], "latency_limit=inf: expected a number above 0"),
        (["mechanism=sinkhorn", "mechanism.temperature=nan"], "expects a finite number, as in 0.75"),
        (["mechanism=softmax", "memory_limit=8Gb"], "memory_limit=8Gb: give a size, as in 8GiB"),
        (["mechanism=softmax", "meters=latency"], "give a list, as in"),
        (["mechanism=softmax", "meters=[latncy]"], "did you mean 'latency'"),
        (["mechanism=softmax", "engine=slurm"], "unknown engine 'slurm'"),
        (["mechanism=softmax", "training.schedule=cosin"], "did you mean 'cosine'"),
        (["mechanism=linear", "mechanism.chunks=8"], "did you mean 'chunk'"),
        (["mechanism=linear", "mechanism.chunk=large"], "expects int, as in"),
        (["mechanism=linear", "mechanism.softmax.chunk=8"], "unknown mechanism in"),
        (["mechanism=linear", "+x=1"], r"write key=value without \+"),
        (["mechanism=linear", "seed"], "'seed' is not an override"),
        (["mechanism=linear", "seed=[1"], "cannot read 'seed="),
        (["mechanism=linear", "grid=all"], "unknown grid 'all'"),
        (["mechanism=linear", "scale=huge"], "unknown scale"),
        ([], "which mechanism.*Accepted: "),
        (["mechanism=./nowhere.py:Mine"], "there is no file"),
    ],
)
def test_what_cannot_be_understood_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        points(["task=lra_text" if "scale=huge" in overrides else "task=speed", *overrides])


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


def test_the_recipe_of_the_configuration_is_the_training_loops() -> None:
    from dataclasses import fields

    assert set(overrides.root()["training"]) == {field.name for field in fields(Recipe)}


def test_every_engine_has_its_function() -> None:
    from cab.planning import schema
    from cab.runner.engines import ENGINES

    assert tuple(ENGINES) == schema.ENGINES and all(callable(engine) for engine in ENGINES.values())


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


def test_a_wrapper_is_put_around_each_chosen_mechanism_with_hyper_parameters_of_its_own(elsewhere: Path) -> None:
    (elsewhere / "wrap.py").write_text(WRAPPER)
    asked = ["mechanism=./wrap.py:Doubled", "task=speed", "mechanism.times=3.0"]
    asked += ["mechanism@mechanism.inner=agent,local", "mechanism.inner.local.window=8,16"]
    found = points(asked)
    assert [point.params["inner"]["name"] for point in found] == ["agent", "local", "local"]
    assert [point.params["inner"].get("window") for point in found] == [None, 8, 16]
    assert {point.params["times"] for point in found} == {3.0}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["mechanism=./wrap.py:Doubled"], "give it as mechanism@mechanism.inner=NAME"),
        (["mechanism=./wrap.py:Doubled", "mechanism@mechanism.inner=agnet"], "did you mean 'agent'"),
        (["mechanism=./wrap.py:Doubled", "mechanism@mechanism.inner=agent", "mechanism.inner.windw=8"], "windw"),
        (["mechanism=agent", "mechanism@mechanism.inner=local"], "none of the chosen mechanisms wraps another"),
        (["mechanism=agent", "mechanism@other=local"], r"without \+, ~ or @"),
    ],
)
def test_a_wrapper_that_cannot_be_put_together_is_named(asked: list[str], said: str, elsewhere: Path) -> None:
    (elsewhere / "wrap.py").write_text(WRAPPER)
    with pytest.raises(UsageError, match=said):
        points([*asked, "task=speed"])
