"""A node that is unlike the others is excluded by name, alike ones are not, and rows state the drift."""

import random
from math import exp
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cab.analysis.efficiency_length import efficiency_lengths
from cab.analysis.growth import growths
from cab.analysis.ranking import leaderboard
from cab.store import bundle, controls
from cab.store.controls import Control
from cab.store.merging import merge
from cab.store.node_exclusion import SHARE, excluded
from cab.store.store import Store
from cab.store.table import environments, measurements, process_medians, table
from tests.store.example_entries import entry, write

SECONDS = 1e-3


def control(
    host: str, seconds: float = SECONDS, drift: float = 1.0, run: str = "r", number: int = 0, **facts: Any
) -> Control:
    environment = {"host": host, "cpu": "x", **facts}
    return Control(run, number or int(host[1:]), environment, seconds, seconds * drift)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of five nodes, each with a timing of its own; the control of n5 takes half as long again."""
    made = Store(tmp_path / "store").open_for_writing()
    for number in range(1, 6):
        facts = {"host": f"n{number}", "cpu": "x"}
        of_node = {"environment": facts, "environment_id": f"e{number}", "key": f"k{number}"}
        processes = [
            {"metrics": {"latency": {"samples": [0.5 + i]}}, "details": {"bundle": f"r-{number}"}} for i in range(2)
        ]
        write(made, entry(value=float(number), processes=processes, **of_node))
        controls.keep(made.folder, control(f"n{number}", SECONDS * (1.5 if number == 5 else 1.0), 1 + number / 100))
    return made


def test_a_node_that_is_unlike_the_others_is_excluded_by_name() -> None:
    for factor in (1.5, 0.6):
        seconds = {"n1": 1.0, "n2": 1.01, "n3": 0.99, "n4": 1.02, "n5": factor}
        reasons = excluded([control(host, each) for host, each in seconds.items()])
        assert list(reasons) == ["r-5"]
        assert reasons["r-5"].startswith(f"node n5 is excluded: its control took {factor / 1.005:.2f} times")


def test_every_bundle_of_an_excluded_node_is() -> None:
    alike = [control(f"n{i}") for i in range(1, 6)]
    slow = [control("n6", SECONDS * factor, number=number) for factor, number in ((1.2, 7), (1.3, 8))]
    assert set(excluded([*alike, *slow])) == {"r-7", "r-8"}


def test_of_two_nodes_nothing_says_which_one_is_wrong() -> None:
    assert not excluded([control("n1"), control("n2", 10 * SECONDS)])


def test_a_difference_that_no_timing_resolves_excludes_no_node() -> None:
    assert not excluded([*(control(f"n{i}") for i in range(1, 10)), control("n10", 1.04 * SECONDS)])


def test_nodes_of_other_kinds_and_other_runs_are_not_compared() -> None:
    alike = [control(f"n{i}") for i in range(1, 6)]
    assert not excluded([*alike, control("n6", 3 * SECONDS, cpu="y")])
    assert not excluded([*alike, control("n6", 3 * SECONDS, run="later")])
    assert excluded([*alike, control("n6", 3 * SECONDS)])


@pytest.mark.parametrize("nodes", [3, 5, 20])
def test_of_runs_on_alike_nodes_few_exclude_one(nodes: int) -> None:
    draw, runs = random.Random(nodes), 1000
    wrong = sum(
        bool(excluded([control(f"n{i}", exp(draw.gauss(0, 0.2))) for i in range(1, nodes + 1)])) for _ in range(runs)
    )
    assert wrong / runs < SHARE + 0.02  # three standard deviations of the count of a thousand


@pytest.mark.parametrize(
    ("groups", "between", "within"),
    [
        ([[10] * 9 + [1]], 0.0, 0.2),  # the average of one bundle varies more than that of ten
        ([[10] * 9 + [1]], 0.1, 0.2),
        ([[1] * 9 + [10]], 0.0, 0.2),
        ([[1, 2, 5, 10, 20]], 0.1, 0.2),
        ([[1] * 5] * 4, 0.2, 0.0),  # the nodes of four devices are compared in one run
    ],
)
def test_whatever_the_number_of_bundles_and_devices_few_runs_on_alike_nodes_exclude_one(
    groups: list[list[int]], between: float, within: float
) -> None:
    draw, runs = random.Random(0), 1000

    def run_on_alike_nodes() -> list[Control]:
        made = []
        for device, bundles in enumerate(groups):
            for host, count in enumerate(bundles):
                of_node = draw.gauss(0, between)
                for _ in range(count):
                    before, after = (exp(of_node + draw.gauss(0, within)) for _ in range(2))
                    made.append(control(f"n{host}", before, after / before, number=len(made) + 1, device=device))
        return made

    wrong = sum(bool(excluded(run_on_alike_nodes())) for _ in range(runs))
    assert wrong / runs < SHARE + 0.02  # three standard deviations of the count of a thousand


def test_a_slow_node_with_one_bundle_is_excluded_among_nodes_with_ten() -> None:
    draw = random.Random(0)
    alike = [
        control(f"n{host}", exp(draw.gauss(0, 0.02)), number=10 * host + i) for host in range(9) for i in range(10)
    ]
    assert not excluded([*alike, control("n9", 1.02, number=99)])
    assert list(excluded([*alike, control("n9", 1.3, number=99)])) == ["r-99"]


def test_rows_state_the_drift_and_those_of_an_excluded_node_have_no_value(store: Store) -> None:
    rows = table(store).sort_values("environment_id")
    assert list(rows["control_drift"]) == pytest.approx([1.01, 1.02, 1.03, 1.04, 1.05])
    assert list(rows["status"]) == ["ok"] * 4 + ["skipped"] and list(rows["value"])[:4] == [1.0, 2.0, 3.0, 4.0]
    last = rows.iloc[-1]
    assert pd.isna(last["value"]) and last["reason"].startswith("node n5 is excluded")
    assert {environment for _, environment, _ in process_medians(store)} == {"e1", "e2", "e3", "e4"}
    assert list(measurements(store).sort_values("environment_id")["ended"]) == ["ok"] * 4 + ["skipped"]
    kept = store.read(f"{last['case_id']}-k5")
    assert kept is not None and kept.metrics["latency"].value == 5.0, "the file keeps what was measured"


def test_a_control_that_comes_later_is_seen_although_the_rows_are_cached(store: Store) -> None:
    path = store.folder / controls.FOLDER / "r-5.json"
    content = path.read_bytes()
    path.unlink()
    assert set(table(store)["status"]) == {"ok"}
    path.write_bytes(content)
    assert set(table(store)["status"]) == {"ok", "skipped"}


def test_a_lost_bundle_has_no_drift_and_its_node_is_judged_all_the_same(store: Store) -> None:
    controls.keep(store.folder, Control("r", 5, {"host": "n5", "cpu": "x"}, 2 * SECONDS))
    rows = table(store).sort_values("environment_id")
    assert pd.isna(rows.iloc[-1]["control_drift"]) and rows.iloc[-1]["status"] == "skipped"


def test_what_several_bundles_measured_has_the_largest_drift(store: Store) -> None:
    processes = [{"metrics": {"latency": {"samples": [0.5]}}, "details": {"bundle": f"r-{i}"}} for i in (1, 9)]
    write(store, entry(value=7.0, key="k1", environment_id="e1", processes=processes))
    controls.keep(store.folder, control("n1", drift=0.5, number=9))
    assert table(store).set_index("environment_id").loc["e1", "control_drift"] == 0.5


def test_nodes_are_told_apart_in_every_table(store: Store) -> None:
    for number in range(1, 5):
        for mechanism in ("none", "softmax", "linear"):
            for n in (32, 64, 128):
                measured = entry(key="k", environment={"host": f"n{number}"}, environment_id=f"e{number}")
                measured["case"] = {**measured["case"], "mechanism": mechanism, "n": n, "m": n}
                measured["case_id"] = f"{mechanism}{n:03d}{number}"
                measured["metrics"]["latency"] |= {"value": number * n * 1e-6, "unit": "seconds"}
                write(store, measured)
    rows, machines = table(store), environments(store)
    boards = [board for board in leaderboard(rows, machines) if board.question["n"] == 64]
    assert [board.machine for board in boards] == ["n1, x", "n2, x", "n3, x", "n4, x"]
    assert set(growths(rows)["environment_id"]) == {"e1", "e2", "e3", "e4"}
    assert set(efficiency_lengths(rows)["environment_id"]) == {"e1", "e2", "e3", "e4"}
    of_excluded = [board for board in leaderboard(rows, machines) if board.machine.startswith("n5")]
    assert [line.rank for board in of_excluded for line in board.lines] == [None]


def test_merges_and_bundles_carry_the_controls(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other").open_for_writing()
    merge(other, [store])
    assert table(other).equals(table(store)) and len(controls.load(other.folder)) == 5
    bundle.write(store.folder, tmp_path / "exported", "0")
    rows, _ = bundle.read(tmp_path / "exported")
    assert rows["control_drift"].notna().all() and (rows["status"] == "skipped").sum() == 1


def test_a_bundle_of_an_earlier_version_has_no_drift(store: Store, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    table(store).drop(columns="control_drift").to_parquet(tmp_path / "old" / bundle.ROWS)
    rows, _ = bundle.read(tmp_path / "old")
    assert rows["control_drift"].isna().all() and len(rows) == 5
