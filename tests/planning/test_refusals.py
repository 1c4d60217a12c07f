"""What does not go together is refused by name, before anything runs."""

from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.planning.plan import plan


def refusals(*overrides: str, data: Path = Path("data")) -> list[str | None]:
    """Return the reason of each refused measurement, and None for the others."""
    measurements = plan(["meters=[flops]", *overrides], data).measurements
    assert {measurement.refusal[0] for measurement in measurements if measurement.refusal} <= {"unsupported"}
    return [measurement.refusal[1] if measurement.refusal else None for measurement in measurements]


@pytest.mark.parametrize("key", ["kv_heads=1", "value_dim=8", "padding=0.5", "dtype=bfloat16"])
def test_what_a_training_would_ignore_is_refused_and_names_no_board(key: str, tmp_path: Path) -> None:
    name = key.split("=")[0]
    default = {"kv_heads": "null", "value_dim": "null", "padding": "0.0", "dtype": "float32"}[name]
    asked = ["task=recall_ns", "mechanism=softmax", "meters=[quality,flops]"]
    reasons = refusals(*asked, f"{key},{default}", data=tmp_path)
    assert reasons.count(None) == len(reasons) // 2
    assert all(name in reason for reason in reasons if reason)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["mechanism=softmax,linear", "backend=sdpa"], "linear has no backend sdpa (it has eager, compile)"),
        (["mechanism=softmax,linear", "kv_heads=2"], "linear does not group queries (kv_heads=2, heads=4)"),
        (["mechanism=softmax,abc", "pattern=CS", "pass=decode"], None),
        (["mechanism=softmax", "pattern=CS,NC", "pass=decode"], "pass=decode needs a causal pattern, not NC"),
        (
            ["mechanism=softmax", "pattern=CS", "level=attend,layer", "pass=decode"],
            "pass=decode is of the levels attend and model",
        ),
    ],
)
def test_what_a_mechanism_or_a_case_cannot_do_is_refused_and_the_rest_planned(
    overrides: list[str], reason: str | None
) -> None:
    asked = refusals("task=speed", *overrides)
    assert None in asked
    assert reason is None or any(refused.startswith(reason) for refused in asked if refused)


def test_a_wrapper_is_refused_what_its_inner_mechanism_is(wrapper: str) -> None:
    asked = ["task=speed", f"mechanism={wrapper}", "mechanism@mechanism.inner=softmax,nystrom", "pattern=CS"]
    plain, refused = refusals(*asked)
    assert plain is None and refused is not None and refused.startswith("nystrom does not support CS")


def test_nothing_that_can_be_measured_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nothing of this can be measured: speed has no model"):
        plan(["task=speed", "mechanism=softmax", "level=model"])


def test_a_backend_that_no_mechanism_has_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown backend 'sdap'; did you mean 'sdpa'"):
        plan(["task=speed", "mechanism=softmax,linear", "backend=sdap"])


def test_meters_without_a_metric_for_the_case_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"no metric of meters=\[quality\] applies"):
        plan(["task=speed", "mechanism=softmax", "meters=[quality]"])


def test_one_mechanism_in_all_slots_must_support_them_all(tmp_path: Path) -> None:
    asked = ["task=cab_lstf", "mechanism=linformer,s4d,softmax", "meters=[quality]", "pattern=NS"]
    assert refusals(*asked, "task.others=none,mean", data=tmp_path) == [None] * 6
    linformer, s4d, softmax = refusals(*asked, "task.others=same", data=tmp_path)
    assert (
        linformer is None and softmax is None
    )  # its decoder's CS slot is not on the card, and refuses when it is built
    assert s4d is not None and s4d.startswith("task.others=same: s4d does not support NC")


def test_others_are_of_a_model() -> None:
    with pytest.raises(UsageError, match="task.others=none is of a task's model, not of the level attend"):
        plan(["task=speed", "mechanism=softmax", "task.others=none"])


def test_what_stands_in_the_other_slots_is_part_of_what_an_answer_depends_on(tmp_path: Path) -> None:
    asked = ["task=cab_lstf", "mechanism=softmax", "meters=[quality]"]
    files = {
        others: plan([*asked, f"task.others={others}"], tmp_path).measurements[0].files
        for others in ("softmax", "none", "mean", "same")
    }
    assert set(files["softmax"]) == set(files["same"]), "softmax is the mechanism under test"
    for others in ("none", "mean"):
        assert [Path(file).stem for file in set(files[others]) - set(files["softmax"])] == [others]


def test_a_model_decodes_where_its_task_does_whatever_the_mechanism(tmp_path: Path) -> None:
    asked = ["mechanism=softmax,none", "level=model", "pass=decode", "meters=[memory]"]
    assert refusals(*asked, "task=cab_sum", data=tmp_path) == [None, None]  # `none` does not stream
    with pytest.raises(UsageError, match="recall_cc does not decode"):
        refusals(*asked, "task=recall_cc", data=tmp_path)


def test_a_metric_of_another_meter_is_not_measured_by_ones_own(elsewhere: Path) -> None:
    card = "    metrics = {'flops': ('FLOP', False)}\n    method = 'counts'\n"
    (elsewhere / "mine.py").write_text(f"from cab import Meter\n\n\nclass Mine(Meter):\n{card}")
    with pytest.raises(UsageError, match=r"the metric 'flops' of \./mine\.py:Mine is already one of the meter flops"):
        plan(["mechanism=softmax", "task=speed", "meters=[flops,./mine.py:Mine]"])


DIVIDED = ["task=speed", "mechanism=softmax", "backend=sdpa", "context_parallel=1,2"]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("pattern=CS", "is of the patterns NS and NC, not CS: PyTorch's causal form raises on the CPU"),
        ("pattern=CC", "is of the patterns NS and NC, not CC"),
        ("pass=backward", "is of level=attend pass=forward, not level=attend pass=backward"),
        ("level=layer", "is of level=attend pass=forward, not level=layer pass=forward"),
        ("backend=eager", "PyTorch divides its fused kernel alone, backend=sdpa, not eager"),
        ("mechanism=linear backend=eager", "PyTorch divides softmax attention alone, not linear"),
        ("mechanism.alibi=true", "without a mask, a bias or groups of heads, and not with alibi"),
        ("padding=0.5", "and not with padding"),
        ("kv_heads=2", "and not with kv_heads"),
        ("seq_len=65", "65 tokens are no multiple of it"),
        ("pattern=NC source_len=33", "33 tokens are no multiple of it"),
        ("meters=[memory]", "memory would measure one of its processes; latency with timer=own times them all"),
        ("timer=torch", "timer=torch would measure one of its processes"),
    ],
)
def test_what_several_processes_cannot_compute_together_is_refused_where_they_are_asked(
    override: str, reason: str
) -> None:
    asked = dict(word.split("=", 1) for word in [*DIVIDED, "meters=[latency]", *override.split()])
    alone, divided = refusals(*(f"{key}={value}" for key, value in asked.items()))
    assert alone is None and divided is not None
    assert divided.startswith("context_parallel=2") and reason in divided


def test_what_several_processes_compute_together_is_planned() -> None:
    assert refusals(*DIVIDED, "meters=[latency]", "pattern=NS,NC") == [None] * 4


def test_weights_that_pretraining_left_are_not_shared_out() -> None:
    asked = ["task=recall_ns", "mechanism=softmax", "level=model", "pass=train", "meters=[quality]"]
    asked += ["training.devices=2", "training.pretrain=null,mlm", "sharding=fsdp"]
    whole, refused = refusals(*asked)
    assert whole is None and refused == "sharding=fsdp: FSDP2 takes over no weights from training.pretrain=mlm"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("task=speed training.lr=1e-3", r"training.lr: nothing is trained here"),
        ("task=parity pass=forward meters=[flops] training.steps=5", r"training.steps: nothing is trained here"),
        ("task=speed slurm.partition=long", r"slurm.partition: it is read by engine=slurm alone, and .* engine=local"),
        ("task=speed engine=slurm ray.address=auto", r"ray.address: it is read by engine=ray alone"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(["mechanism=softmax", *words.split()])


def test_a_key_that_some_cases_read_is_taken() -> None:
    assert plan(["mechanism=softmax", "task=speed,parity", "pass=train", "meters=[quality,flops]", "training.steps=5"])
