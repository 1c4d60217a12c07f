"""`grid=cab_floors` and `grid=cab`: every slot of CAB's tasks with its floors, and eight mechanisms in each pattern."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from cab.analysis.slot_floors import slots_of
from cab.attention.build import LayerBuilder
from cab.planning.plan import plan
from cab.plugins import registry
from cab.store import bundle
from cab.worker.task_setup import build_task

TASKS = [name for name in registry.names("task") if name.startswith("cab_")]
CONTROLS = {"softmax", "mean", "none"}


def test_the_floors_are_trained_in_every_slot_with_three_seeds(tmp_path: Path) -> None:
    items = plan(["grid=cab_floors"], tmp_path).measurements
    slots = {(task, slot) for task in TASKS for slot in registry.card("task", task).facts["slots"]}
    trained = Counter((i.case.task, i.case.pattern, i.case.mechanism, i.case.seed) for i in items)
    assert set(trained) == {(*slot, name, seed) for slot in slots for name in CONTROLS for seed in (0, 1, 2)}
    assert set(trained.values()) == {1} and not [i for i in items if i.refusal is not None]


@pytest.mark.parametrize(("grid", "name"), [("cab_floors", "cab-floors"), ("cab", "cab-quick")])
def test_the_reference_results_are_of_what_the_grid_asks_today(grid: str, name: str) -> None:
    rows, _ = bundle.read(Path(__file__).parents[2] / "results" / "reference" / name)
    assert {case.id for case in plan([f"grid={grid}", "threads=1"]).cases} == {*rows["case_id"]}


def test_every_slot_has_eight_mechanisms_beside_the_floors_and_none_is_refused(tmp_path: Path) -> None:
    items = plan(["grid=cab"], tmp_path).measurements
    assert not [i for i in items if i.refusal is not None]
    slots = {(i.case.task, i.case.pattern) for i in items}
    floors, _ = bundle.read(Path(__file__).parents[2] / "results" / "reference" / "cab-floors")
    answers = {slot: [*slots_of(of).values()] for slot, of in floors.groupby(["task", "pattern"])}
    assert slots == {slot for slot, answer in answers.items() if answer == [True]}, "those that measure attention"
    for slot in slots:
        names = {i.case.mechanism for i in items if (i.case.task, i.case.pattern) == slot}
        assert names > CONTROLS and len(names - CONTROLS) == 8
    assert {i.meter for i in items} == {"quality"} and {i.case.scale for i in items} == {"quick"}


PROTOCOLS = {
    "cab_lm": ("bytes; rotary positions", "bytes"),
    "cab_lstf": ("no calendar; pre-norm; no distilling", ""),
    "cab_mlm": ("bytes; rotary positions; pre-norm; all covered bytes are hidden", "bytes"),
    "cab_pcc": ("learned queries", ""),
    "cab_sr": ("convolutions of 1 by 1; no halving; positions in attention", ""),
    "cab_sum": ("byte pairs of this corpus; rotary positions; pre-norm", "byte pairs of this corpus"),
    "cab_tts_fastspeech2": ("convolutions of kernel 1; rotary positions; no pitch and no energy; pre-norm", ""),
    "cab_tts_transformer": (
        "convolutions of kernel 1; rotary positions; positions along the phonemes; no postnet",
        "",
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_rows_say_where_their_scale_departs_from_the_published_backbone(task: str, tmp_path: Path) -> None:
    found = []
    for scale in ("quick", "paper"):
        items = plan([f"task={task}", "mechanism=softmax", f"scale={scale}", "meters=[quality]"], tmp_path).measurements
        assert len({i.protocol for i in items}) == 1
        found.append(items[0].protocol)
    assert tuple(found) == PROTOCOLS[task]


def test_every_mechanism_fits_every_slot_of_its_model(tmp_path: Path) -> None:
    # planning does not run the constructors: a rank that is more than the keys would be an error of every training
    cases = {each.case.id: each.case for each in plan(["grid=cab"], tmp_path).measurements}
    for case in cases.values():
        attention = LayerBuilder(registry.load("mechanism", case.mechanism), case.params, case.pattern, case.backend)
        with torch.device("meta"):
            build_task(case).model(attention)
        assert attention.built, case.title
