"""What is asked decides a case's id, what the answer depends on its key."""

from pathlib import Path

import pytest

from cab import environment
from cab.contracts.case import Case, canonical, worst
from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.planning.plan import plan
from cab.plugins import fingerprint, registry

SPEED = ["task=speed", "mechanism=linear", "seq_len=64"]


def only(*overrides: str) -> Measurement:
    (item,) = plan([*SPEED, "meters=[latency]", *overrides]).measurements
    return item


def test_a_case_survives_its_json() -> None:
    case = only().case
    assert Case.of(case.question()) == case and Case.of(case.question()).id == case.id


def test_the_id_is_what_is_asked_and_nothing_else() -> None:
    case = only().case
    assert only("timeout=5", "memory_limit=1GiB").case.id == case.id
    assert only("seed=1").case.id != case.id and only("mechanism.chunk=8").case.id != case.id
    assert only("padding=0.0", "kv_heads=null").case.id == case.id  # what is usual is not part of the question
    assert only("padding=0.5").case.settings == {"padding": 0.5}


def test_points_that_come_out_identical_are_one_case() -> None:
    assert len(plan([*SPEED, "pattern=NS", "source_len=8,16", "meters=[flops]"]).cases) == 1  # self has no source
    assert len(plan([*SPEED, "pattern=NC", "source_len=8,16", "meters=[flops]"]).cases) == 2


def test_the_key_of_a_time_holds_the_host_and_that_of_flops_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {item.meter: item.key for item in plan([*SPEED, "meters=[latency,flops]"]).measurements}
    monkeypatch.setattr(environment, "_cpu", lambda: "another CPU")
    after = {item.meter: item.key for item in plan([*SPEED, "meters=[latency,flops]"]).measurements}
    assert before["latency"] != after["latency"] and before["flops"] == after["flops"]


def test_seeds_are_outermost() -> None:
    cases = plan([*SPEED, "seed=0,1", "pattern=NS,CS", "meters=[flops]"]).cases
    assert [(case.seed, case.pattern) for case in cases] == [(0, "NS"), (0, "CS"), (1, "NS"), (1, "CS")]


def test_every_metric_that_is_asked_for_is_planned() -> None:
    items = plan([*SPEED, "meters=[latency,memory,flops]", "pattern=NS,CC"]).measurements
    assert [(item.case.pattern, item.meter) for item in items] == [
        (pattern, meter) for pattern in ("NS", "CC") for meter in ("latency", "memory", "flops")
    ]
    assert all(item.metrics for item in items)


def test_the_worst_status_is_the_cases() -> None:
    assert worst(["ok", "skipped"]) == "skipped" and worst(["oom", "wrong", "error"]) == "wrong"
    assert worst(["ok"]) == "ok" and worst([]) == "skipped"


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical({"b": 1, "a": [1, 2.5, None]}) == '{"a":[1,2.5,null],"b":1}'
    with pytest.raises(ValueError):
        canonical(float("nan"))


def _forget() -> None:
    """Two writes within one tick of the file system's clock look alike."""
    fingerprint._read.cache_clear()


def test_comments_and_docstrings_change_no_fingerprint_and_an_import_does(tmp_path: Path) -> None:
    mine, helper = tmp_path / "mine.py", tmp_path / "helper.py"
    helper.write_text("x = 1\n")
    mine.write_text("import helper\nfrom cab.ops.softmax import visible\n")
    first = fingerprint.of(mine)
    for words in ("# a comment\n", '"""A docstring."""\n\n'):
        mine.write_text(f"{words}import helper\n\n\nfrom cab.ops.softmax import visible\n")
        _forget()
        assert fingerprint.of(mine) == first
    helper.write_text('"""A docstring."""\nx = 1\n')
    _forget()
    assert fingerprint.of(mine) == first
    helper.write_text("x = 2\n")
    _forget()
    assert fingerprint.of(mine) != first
    mine.write_text("import helper\n")
    _forget()
    assert fingerprint.of(mine) != first


def test_a_package_may_name_its_modules_from_the_folder_it_lies_in(tmp_path: Path) -> None:
    mine, package = tmp_path / "mine.py", tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fast.py").write_text("from kernels.sizes import WIDTH\n")
    (package / "sizes.py").write_text("WIDTH = 1\n")
    mine.write_text("from kernels.fast import scan\n")
    before = fingerprint.of(mine)
    (package / "sizes.py").write_text("WIDTH = 2\n")
    assert fingerprint.of(mine) != before


def test_packages_beside_a_users_file_are_part_of_its_fingerprint(tmp_path: Path) -> None:
    mine, package = tmp_path / "mine.py", tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fast.py").write_text("from . import low, high\n")
    for name in ("low", "high"):
        (package / f"{name}.py").write_text("x = 1\n")
    mine.write_text("from kernels.fast import scan\n")
    seen = {fingerprint.of(mine)}
    for name in ("__init__", "fast", "low", "high"):
        (package / f"{name}.py").write_text(f"x = '{name}'\n" + ("from . import low, high\n" * (name == "fast")))
        _forget()
        seen.add(fingerprint.of(mine))
    assert len(seen) == 5


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


def test_what_could_not_be_measured_for_want_of_a_package_is_asked_again_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["task=speed", "mechanism=none", "meters=[latency,flops]"]
    latency = registry.load("meter", "latency")
    monkeypatch.setattr(latency, "unavailable", lambda self, device: "it is not installed")
    without = {item.meter: item for item in plan(asked).measurements}
    monkeypatch.undo()
    having = {item.meter: item for item in plan(asked).measurements}
    assert without["latency"].refusal == ("unsupported", "it is not installed")
    assert without["latency"].key != having["latency"].key and without["flops"].key == having["flops"].key


@pytest.mark.parametrize("key", ["kv_heads=1", "value_dim=8", "padding=0.5", "dtype=bfloat16"])
def test_what_a_training_would_ignore_is_refused_and_names_no_board(key: str, tmp_path: Path) -> None:
    asked = ["task=recall_ns", "mechanism=softmax", "meters=[quality,flops]"]
    usual = {"kv_heads": "null", "value_dim": "null", "padding": "0.0", "dtype": "float32"}[key.split("=")[0]]
    items = plan([*asked, f"{key},{usual}"], tmp_path).measurements
    refused = [item.refusal for item in items]
    assert refused.count(None) == len(refused) // 2
    assert all(key.split("=")[0] in refusal[1] for refusal in refused if refusal)


def test_a_fingerprint_covers_the_contract_behind_the_lazy_names(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("from cab import Mechanism\n")
    read = {path.name for path in fingerprint._read(mine, 0)[1]}
    assert "mechanism.py" in read


@pytest.mark.parametrize("task", ["lra_text", "lra_listops", "lra_pathfinder", "lra_pathx"])
def test_a_kept_number_is_of_the_data_that_lie_in_the_folder(task: str, tmp_path: Path) -> None:
    def keys() -> set[str]:
        asked = [f"task={task}", "mechanism=none", "meters=[quality,flops]"]
        return {item.key for item in plan(asked, tmp_path).measurements}

    generated = keys()
    (tmp_path / "unrelated").mkdir()
    (tmp_path / "unrelated" / "file").write_text("more")
    assert keys() == generated
    place = tmp_path / registry.card("task", task).facts["data"][-1] / "inside"
    place.mkdir(parents=True)
    (place / "file").write_text("more")
    with_data = keys()
    assert not with_data & generated
    (place / "file").write_text("even more")
    assert not keys() & with_data


def test_data_change_no_key_of_what_reads_none(tmp_path: Path) -> None:
    before = [item.key for item in plan([*SPEED, "meters=[flops]"], tmp_path).measurements]
    (tmp_path / "aclImdb").mkdir()
    (tmp_path / "aclImdb" / "file").write_text("more")
    assert [item.key for item in plan([*SPEED, "meters=[flops]"], tmp_path).measurements] == before
