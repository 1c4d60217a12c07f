"""What the preflight makes of hyper-parameters that this slot is too short for, and of ids that nobody can read."""

from pathlib import Path

import pytest

from cab.contracts.messages import PreflightJob
from cab.errors import UsageError
from cab.planning.plan import plan
from cab.worker.preflight import preflight

LANDMARKS = """from math import prod

from cab import Mechanism


class Landmarks(Mechanism):
    patterns = {"NS": "native", "NC": "native"}
    rasters = (1, 2, 3)

    def __init__(self, slot, *, landmarks: int = 50):
        super().__init__(slot)
        if not 0 < landmarks <= slot.keys:
            raise ValueError(f"landmarks={landmarks}: from 1 to the {slot.keys} keys of the slot")
        assert slot.raster is None or prod(slot.raster) == slot.max_len

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return v
"""
SHORT = [
    ["seq_len=16"],
    ["seq_len=16", "raster=square"],
    ["seq_len=27", "raster=cube"],
    ["seq_len=16", "raster=[2,8]"],
    ["pattern=NC", "seq_len=64", "source_len=16", "raster=square"],
]


@pytest.fixture(autouse=True)
def _own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "landmarks.py").write_text(LANDMARKS)
    monkeypatch.chdir(tmp_path)


def refused(overrides: list[str], landmarks: int) -> list[str]:
    mechanism = ["mechanism=./landmarks.py:Landmarks", f"mechanism.landmarks={landmarks}"]
    cases = plan([*mechanism, "task=speed", "meters=[flops]", *overrides]).cases
    return list(preflight(PreflightJob(cases, "data")).refused.values())


@pytest.mark.parametrize("overrides", SHORT, ids=" ".join)
def test_more_landmarks_than_tokens_refuse_the_case_alone_on_rasters_too(overrides: list[str]) -> None:
    (reason,) = refused(overrides, 50)
    assert reason.startswith("landmarks=50: from 1 to the ")


@pytest.mark.parametrize("overrides", SHORT, ids=" ".join)
def test_what_no_slot_takes_ends_the_run(overrides: list[str]) -> None:
    with pytest.raises(UsageError, match="landmarks=0"):
        refused(overrides, 0)


def test_grades_are_those_of_the_instances() -> None:
    overrides = ["mechanism=masked", "mechanism.mask=soft_causal,window", "pattern=CS", "task=speed", "seq_len=16"]
    cases = plan([*overrides, "meters=[flops]"]).cases
    grades = preflight(PreflightJob(cases, "data")).grades
    assert [grades[case.id] for case in cases] == ["leaky", "native"]


IDS = """import torch
from cab.tasks.moving_dots import MovingDots


class Ids(MovingDots):
    slots = ("NS", "CS")
    metrics = {"accuracy": ("fraction", True)}
    inputs = ("frame", "cell", "component", "group", "subject", "channel", "modality")
    rasters = (3,)
    case = {"pattern": "NS", "level": "model", "pass": "train", "meters": ["quality"], "seq_len": 128}

    def __init__(self, *, seq_len, change: str = "none"):
        super().__init__(seq_len=seq_len)
        self.change = change

    def collate(self, examples, trim=False):
        if self.change == "fault":
            raise ValueError("a fault of this task")
        batch = super().collate(examples, trim)
        if self.change == "missing":
            del batch.inputs["frame"]
        elif self.change == "padded":
            batch.x_mask = torch.ones(batch.inputs["subject"].shape, dtype=torch.bool)
            batch.x_mask[:, -3:] = False
            batch.inputs["subject"] = batch.inputs["subject"].masked_fill(~batch.x_mask, -1)
        elif self.change != "none":
            more = {"large": 5, "negative": -1, "real": 0.5}[self.change]
            batch.inputs["subject"] = batch.inputs["subject"] + more
        return batch
"""


@pytest.mark.parametrize(
    ("change", "mask", "reason"),
    [
        ("large", "subject", "masked takes ids from 0 to 7 as 'subject', and ./ids.py:Ids gives 5 to 8"),
        ("negative", "subject", "masked takes ids from 0 to 7 as 'subject', and ./ids.py:Ids gives -1 to 2"),
        ("real", "subject", "masked reads 'subject' as ids, and ./ids.py:Ids gives torch.float32: whole numbers are"),
        ("missing", "space", "masked needs the input 'frame', and a batch of ./ids.py:Ids has none"),
        ("none", "subject", ""),
        ("large", "tubes", ""),
        ("padded", "subject", ""),
        ("fault", "subject", ""),
    ],
)
def test_ids_that_a_mechanism_cannot_read_refuse_its_case_alone(change: str, mask: str, reason: str) -> None:
    Path("ids.py").write_text(IDS)
    asked = ["task=./ids.py:Ids", f"task.change={change}", "mechanism=masked,softmax", f"mechanism.masked.mask={mask}"]
    cases = plan(asked).cases
    answer = preflight(PreflightJob(cases, "data"))
    reasons = {case.mechanism: answer.refused.get(case.id, "") for case in cases}
    assert reasons["softmax"] == "" and reasons["masked"].startswith(reason) and bool(reasons["masked"]) == bool(reason)
    assert {case.id for case in cases} == {*answer.refused, *answer.grades}
