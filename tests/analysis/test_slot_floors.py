"""Slots that do not measure attention: by a synthetic measurement, on boards, in the terminal and in the aggregate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cab.analysis import slot_floors
from cab.analysis.aggregates import aggregated
from cab.analysis.leaderboard import Board
from cab.analysis.ranking import leaderboard
from cab.analysis.results import Results
from cab.analysis.slot_floors import measures_attention, slots_of
from cab.report import notes
from tests.analysis.example_rows import environments, table_of, training_rows

Rows = list[dict[str, Any]]


def slot(task: str, softmax: Any, none: Any, seeds: int = 3, **changes: Any) -> list[Rows]:
    """Make the trainings of softmax and none in a task, whose accuracies over the seeds spread by 0.002."""
    return [
        training_rows(mechanism, tuple(value + 0.002 * seed for value in accuracy), task=task, seed=seed, **changes)
        for mechanism, accuracy in (("softmax", softmax), ("none", none))
        for seed in range(seeds)
    ]


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Ship a measurement of some slots."""

    def ship(*slots: list[Rows]) -> None:
        table = table_of(*(rows for trainings in slots for rows in trainings))
        (tmp_path / slot_floors.FILE).parent.mkdir(parents=True)
        table.to_parquet(tmp_path / slot_floors.FILE)
        forget()

    def forget() -> None:
        slot_floors._shipped.cache_clear()
        slot_floors._tasks.cache_clear()

    monkeypatch.setattr(slot_floors, "beside", lambda name: tmp_path)
    forget()
    yield ship  # type: ignore[misc]
    forget()


def boards(*trainings: Rows) -> list[Board]:
    return leaderboard(table_of(*trainings), environments())


SOFTMAX, WITHIN, BEYOND, BETTER = (0.8, 0.78, 0.82), (0.79, 0.77, 0.81), (0.6, 0.58, 0.62), (0.9, 0.88, 0.92)


@pytest.mark.parametrize(("none", "measures"), [(WITHIN, False), (BEYOND, True), (BETTER, False)])
def test_a_slot_measures_attention_where_none_is_worse_than_the_whole_interval(none: Any, measures: bool) -> None:
    (answer,) = slots_of(table_of(*slot("a", SOFTMAX, none))).values()
    assert answer is measures


def test_where_less_is_better_none_must_be_above_the_interval() -> None:
    rows = [{**row, "higher_is_better": False} for each in slot("a", SOFTMAX, BETTER) for row in each]
    assert list(slots_of(table_of(rows)).values()) == [True]
    rows = [{**row, "higher_is_better": False} for each in slot("a", SOFTMAX, BEYOND) for row in each]
    assert list(slots_of(table_of(rows)).values()) == [False]


def test_the_interval_is_over_seeds_too() -> None:
    # within a seed 0.79 is far from 0.8; over seeds that spread by 0.02 it is not
    narrow = [training_rows("softmax", (v, v - 1e-4, v + 1e-4), seed=s) for s, v in enumerate((0.78, 0.8, 0.82))]
    assert list(slots_of(table_of(*narrow, training_rows("none", (0.79, 0.79, 0.79)))).values()) == [False]
    assert list(slots_of(table_of(narrow[1], training_rows("none", (0.79, 0.79, 0.79)))).values()) == [True]


def test_a_slot_without_both_is_not_known() -> None:
    assert slots_of(table_of(training_rows("softmax", SOFTMAX), training_rows("linear", BEYOND))) == {}


def test_a_board_is_marked_by_its_own_slot_alone(shipped: Callable[..., None]) -> None:
    other = {"settings": {"task": {"queries": "coarse"}}}
    shipped(slot("useless", SOFTMAX, WITHIN), slot("useful", SOFTMAX, BEYOND), slot("both", SOFTMAX, WITHIN, **other))
    answers = {
        name: measures_attention(boards(training_rows("linear", BEYOND, **changes))[0])
        for name, changes in {
            "useless": {"task": "useless"},
            "useful": {"task": "useful"},
            "other pattern": {"task": "useless", "pattern": "CS"},
            "other scale": {"task": "useless", "scale": "small"},
            "other length": {"task": "useless", "n": 64, "m": 64},
            "other hyper-parameters": {"task": "both"},
            "its hyper-parameters": {"task": "both", **other},
            "another recipe": {"task": "both", "settings": {**other["settings"], "training": {"steps": 9}}},
        }.items()
    }
    assert answers == {
        "useless": False,
        "useful": True,
        "other pattern": None,
        "other scale": None,
        "other length": None,
        "other hyper-parameters": None,
        "its hyper-parameters": False,
        "another recipe": False,
    }


def test_the_mark_stands_in_the_conditions_of_a_board(shipped: Callable[..., None]) -> None:
    shipped(slot("useless", SOFTMAX, WITHIN), slot("useful", SOFTMAX, BEYOND))
    texts = {
        task: notes.conditions(boards(training_rows("linear", BEYOND, task=task))[0]) for task in ("useless", "useful")
    }
    assert texts["useless"].endswith(" · this slot does not measure attention at this scale")
    assert "does not measure" not in texts["useful"]


def test_a_marked_board_counts_in_no_aggregate(shipped: Callable[..., None]) -> None:
    trainings = [
        training_rows(mechanism, (value, value - 0.01, value + 0.01), task=task)
        for task, of in {
            "useless": {"none": 0.2, "softmax": 0.6, "linear": 0.3},
            "useful": {"none": 0.2, "softmax": 0.6, "linear": 0.5},
        }.items()
        for mechanism, value in of.items()
    ]
    unmarked = {each.mechanism: each for each in aggregated(boards(*trainings))}
    assert unmarked["linear"].value == pytest.approx((0.25 + 0.75) / 2) and unmarked["linear"].tasks == 2
    shipped(slot("useless", SOFTMAX, WITHIN), slot("useful", SOFTMAX, BEYOND))
    marked = {each.mechanism: each for each in aggregated(boards(*trainings))}
    assert marked["linear"].value == pytest.approx(0.75) and marked["linear"].tasks == 1
    assert marked["linear"].missing == ()


def test_without_a_measurement_nothing_is_known(shipped: Callable[..., None]) -> None:
    assert measures_attention(boards(training_rows("linear", BEYOND))[0]) is None


def with_floors(*trainings: Rows) -> dict[str, Any]:
    """Return label -> line of the only board, the measurement's lines among them."""
    (board,) = Results(table_of(*trainings), environments()).boards
    return {line.label: line for line in board.lines}


def test_the_measurements_lines_stand_marked_on_boards_that_lack_them(shipped: Callable[..., None]) -> None:
    shipped(slot("useful", SOFTMAX, BEYOND))
    lines = with_floors(training_rows("linear", SOFTMAX, task="useful"), training_rows("abc", WITHIN, task="useful"))
    assert list(lines) == ["linear", "abc", "softmax [cab-floors]", "none [cab-floors]"]
    assert [line.rank for line in lines.values()] == [1, 2, None, None]
    assert lines["softmax [cab-floors]"].cells["accuracy"].seeds == 3
    own = with_floors(training_rows("none", WITHIN, task="useful"), training_rows("linear", SOFTMAX, task="useful"))
    assert list(own) == ["linear", "softmax [cab-floors]", "none"]


def test_a_mechanism_below_the_measurements_none_has_learnt_nothing(shipped: Callable[..., None]) -> None:
    shipped(slot("useful", SOFTMAX, BEYOND))
    lines = with_floors(training_rows("linear", (0.5, 0.49, 0.51), task="useful"))
    assert lines["linear"].at_floor
    assert not with_floors(training_rows("linear", SOFTMAX, task="useful"))["linear"].at_floor


def test_the_measurement_stands_beside_its_own_recipe_alone_with_any_number_of_threads(
    shipped: Callable[..., None],
) -> None:
    shipped(slot("useful", SOFTMAX, BEYOND, settings={"threads": 1, "training": {"steps": 9}}))
    for settings, count in ({"training": {"steps": 9}}, 3), ({"threads": 4, "training": {"steps": 9}}, 3), ({}, 1):
        assert len(with_floors(training_rows("linear", SOFTMAX, task="useful", settings=settings))) == count


def test_the_measurement_is_named_with_its_machine_and_counts_in_no_aggregate(shipped: Callable[..., None]) -> None:
    shipped(slot("useful", SOFTMAX, BEYOND))
    facts = {"host": "lab", "gpu": None, "cpu": "EPYC", "threads": 1, "torch": "2.13.0", "python": "3.11.7"}
    (slot_floors.beside("results") / slot_floors.FILE).with_name("environments.json").write_text(
        json.dumps({"environments": {"a": facts, "b": facts}})
    )
    found = Results(table_of(training_rows("linear", SOFTMAX, task="useful")), environments()).boards
    legend = notes.legend(found)
    assert (
        "[cab-floors]: not of this store, measured beforehand over three seeds on lab, EPYC, 1 thread, torch 2.13.0"
        in ("\n".join(legend))
    )
    assert found[0].lines[0].environment_ids and not found[0].lines[1].environment_ids
    unmarked = boards(training_rows("linear", SOFTMAX, task="useful"))
    assert aggregated(found) == aggregated(unmarked)
    assert not any("[cab-floors]" in line for line in notes.legend(unmarked))
