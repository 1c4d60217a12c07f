"""What is asked decides a case's id, what the answer depends on its key."""

from pathlib import Path

import pytest

from cab import environment
from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.planning.plan import plan
from cab.plugins import registry

SPEED = ["task=speed", "mechanism=linear", "seq_len=64"]


def only(*overrides: str) -> Measurement:
    (measurement,) = plan([*SPEED, "meters=[latency]", *overrides]).measurements
    return measurement


def keys(overrides: list[str], data: Path = Path("data")) -> dict[str, str]:
    """Return meter -> key of the one case that is asked for."""
    return {measurement.meter: measurement.key for measurement in plan(overrides, data).measurements}


def test_the_id_is_what_is_asked_and_nothing_else() -> None:
    case = only().case
    assert only("timeout=5", "memory_limit=1GiB").case.id == case.id
    assert only("seed=1").case.id != case.id and only("mechanism.chunk=8").case.id != case.id
    defaults = only("padding=0.0", "kv_heads=null", "context_parallel=1", "sharding=null")
    assert defaults.case.id == case.id  # a default is not part of the question
    both = [*SPEED, "task=speed,parity", "level=model", "pass=train", "meters=[flops]"]
    timed, _ = plan(both).cases
    assert timed.id == plan([*both, "training.steps=5"]).cases[0].id  # nor what is of trainings alone
    assert only("padding=0.5").case.settings == {"padding": 0.5}


def test_points_that_come_out_identical_are_one_case() -> None:
    assert len(plan([*SPEED, "pattern=NS", "source_len=8,16", "meters=[flops]"]).cases) == 1  # self has no source
    assert len(plan([*SPEED, "pattern=NC", "source_len=8,16", "meters=[flops]"]).cases) == 2


def test_a_model_has_its_source_whichever_slot_is_under_test() -> None:
    for task, pattern, n in (("cab_lstf", "NC", 96), ("cab_lstf", "NS", 96), ("cab_tts_fastspeech2", "NS", 256)):
        [case] = plan([f"task={task}", "mechanism=none", f"pattern={pattern}", "source_len=40"]).cases
        assert (case.n, case.m) == (n, 40)


def test_the_key_of_a_time_holds_the_host_and_that_of_flops_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys([*SPEED, "meters=[latency,flops]"])
    monkeypatch.setattr(environment, "_cpu", lambda: "another CPU")
    after = keys([*SPEED, "meters=[latency,flops]"])
    assert before["latency"] != after["latency"] and before["flops"] == after["flops"]


def test_the_key_holds_every_source_that_the_answer_is_made_of(elsewhere: Path) -> None:
    mask = "def past(i, j):\n    return j <= i\n"
    meter = (
        "from cab import Meter\n\n\nclass M(Meter):\n    metrics = {'m': ('count', None)}\n"
        "    def measure(self, built, case):\n        return {'m': 1.0}\n"
    )
    wrapped = ["task=speed", "mechanism=hybrid", "mechanism@mechanism.inner=masked", "seq_len=16", "pattern=CS"]
    wrapped += ["mechanism@mechanism.second=softmax", "mechanism.inner.mask=./mine.py:past", "meters=[flops]"]
    (elsewhere / "mine.py").write_text(mask)
    (elsewhere / "meter.py").write_text(meter)
    before = keys(wrapped), keys([*SPEED, "meters=[./meter.py:M]"])
    (elsewhere / "mine.py").write_text(mask.replace("<=", "<"))
    (elsewhere / "meter.py").write_text(meter.replace("1.0", "2.0"))
    after = keys(wrapped), keys([*SPEED, "meters=[./meter.py:M]"])
    assert before[0] != after[0] and before[1] != after[1]


def test_a_model_depends_on_what_is_in_its_other_slots() -> None:
    model = ["task=cab_sum", "mechanism=agent", "pattern=CC", "meters=[quality]"]
    for others in ("softmax", "mean"):
        [measurement] = plan([*model, f"task.others={others}"]).measurements
        assert registry.card("mechanism", others).path in measurement.files


def test_seeds_are_outermost() -> None:
    cases = plan([*SPEED, "seed=0,1", "pattern=NS,CS", "meters=[flops]"]).cases
    assert [(case.seed, case.pattern) for case in cases] == [(0, "NS"), (0, "CS"), (1, "NS"), (1, "CS")]


def test_every_metric_that_is_asked_for_is_planned() -> None:
    measurements = plan([*SPEED, "meters=[latency,memory,flops]", "pattern=NS,CC"]).measurements
    assert [(measurement.case.pattern, measurement.meter) for measurement in measurements] == [
        (pattern, meter) for pattern in ("NS", "CC") for meter in ("latency", "memory", "flops")
    ]
    assert all(measurement.metrics for measurement in measurements)


def test_what_could_not_be_measured_for_want_of_a_package_is_asked_again_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["task=speed", "mechanism=none", "meters=[latency,flops]"]
    latency = registry.load("meter", "latency")
    monkeypatch.setattr(latency, "unavailable", lambda self, device: "it is not installed")
    without = {measurement.meter: measurement for measurement in plan(asked).measurements}
    monkeypatch.undo()
    assert without["latency"].refusal == ("unsupported", "it is not installed")
    assert without["latency"].key != keys(asked)["latency"] and without["flops"].key == keys(asked)["flops"]


@pytest.mark.parametrize("task", ["lra_text", "lra_listops", "lra_pathfinder", "lra_pathx"])
def test_a_kept_number_is_of_the_data_that_lie_in_the_folder(task: str, tmp_path: Path) -> None:
    def own_keys() -> set[str]:
        return set(keys([f"task={task}", "mechanism=none", "meters=[quality,flops]"], tmp_path).values())

    generated = own_keys()
    (tmp_path / "unrelated").mkdir()
    (tmp_path / "unrelated" / "file").write_text("more")
    assert own_keys() == generated
    folder = tmp_path / registry.card("task", task).facts["data"][-1] / "inside"
    folder.mkdir(parents=True)
    (folder / "file").write_text("more")
    with_data = own_keys()
    assert not with_data & generated
    (folder / "file").write_text("even more")
    assert not own_keys() & with_data


def test_data_change_no_key_of_what_reads_none(tmp_path: Path) -> None:
    before = keys([*SPEED, "meters=[flops]"], tmp_path)
    (tmp_path / "aclImdb").mkdir()
    (tmp_path / "aclImdb" / "file").write_text("more")
    assert keys([*SPEED, "meters=[flops]"], tmp_path) == before


def test_one_run_has_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from cab.planning import schema

    monkeypatch.setitem(schema.CHOICES, "engine", ("local", "elsewhere"))
    with pytest.raises(UsageError, match="engine=local,elsewhere: one run has one engine"):
        plan([*SPEED, "engine=local,elsewhere"])


def test_one_run_has_one_number_of_workers() -> None:
    assert plan([*SPEED, "workers=3"]).workers == 3
    with pytest.raises(UsageError, match="workers=2,3: one run has one workers"):
        plan([*SPEED, "workers=2,3"])


def test_the_protocol_of_a_row_is_every_departure_that_its_hyper_parameters_make(tmp_path: Path) -> None:
    def protocols(*overrides: str) -> set[str]:
        return {
            each.protocol for each in plan(["mechanism=softmax", "meters=[quality,flops]", *overrides]).measurements
        }

    assert protocols("task=cab_pcc") == {"learned queries"} and protocols("task=cab_pcc", "scale=paper") == {""}
    assert protocols("task=cab_pcc", "task.queries=coarse") == {""}
    assert protocols("task=cab_lstf") == {"no calendar; pre-norm; no distilling"}
    assert protocols("task=cab_lm", "scale=paper") == {"bytes"}
    assert protocols("task=lra_text") == {"clean"} and protocols("task=recall_ns") == {""}
    assert protocols("task=cab_pcc", "level=attend", "pass=forward") == {""}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["timeout=10,60"], "timeout=10,60 for none NS .*: one measurement has one timeout"),
        (["memory_limit=1GiB,8GiB"], f"memory_limit={2**30},{2**33} for none"),
        (["timeout=60,60", "memory_limit=null,8GiB"], f"memory_limit=null,{2**33} for none"),
    ],
)
def test_a_measurement_has_one_limit_of_a_kind(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(["mechanism=none", "task=speed", "seq_len=16", "meters=[flops]", *words])


def test_a_limit_that_a_meter_asks_about_may_have_several_values() -> None:
    asked = ["mechanism=none", "task=speed", "meters=[frontier]", "memory_limit=1GiB,8GiB"]
    assert [each.memory_limit for each in plan(asked).measurements] == [2**30, 2**33]


def test_a_hyper_parameter_that_came_later_is_no_part_of_the_question_at_its_default() -> None:
    asked = ["task=cab_lm", "mechanism=softmax", "meters=[quality]"]
    usual, given, other = (
        plan([*asked, *more]).cases[0] for more in ([], ["task.corpus=reviews"], ["task.corpus=pg19"])
    )
    assert usual.id == given.id != other.id
    assert "corpus" not in usual.task_params and other.task_params["corpus"] == "pg19"
