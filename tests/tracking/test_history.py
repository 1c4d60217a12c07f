"""The history: what is appended is read again, once, in order, and machines stay apart; other tools' results."""

import errno
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.tracking import history
from cab.tracking.foreign import as_pytest_benchmark, read_results
from cab.tracking.history import Point, append, compact, read, read_series, recording_time

POINT = Point("c1", 1000.0, "softmax", "e1", "latency", 0.002, "s", "cab", 5000.0)


def test_what_is_appended_is_read_in_the_order_of_the_commits(tmp_path: Path) -> None:
    later, earlier = replace(POINT, commit="c2", time=2000.0), replace(POINT, commit="c0", time=500.0)
    append(tmp_path, [later])
    append(tmp_path, [POINT, earlier])
    assert read(tmp_path) == [earlier, POINT, later]


def test_a_point_that_is_recorded_again_counts_once(tmp_path: Path) -> None:
    again = replace(POINT, value=0.003, recorded=6000.0)
    append(tmp_path, [again])
    append(tmp_path, [POINT])
    assert read(tmp_path) == [again]


def test_after_a_clock_was_set_back_the_newest_point_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recording_time(tmp_path) == pytest.approx(time.time())
    append(tmp_path, [POINT])
    monkeypatch.setattr(history.time, "time", lambda: 10.0)
    monkeypatch.setattr(history.time, "time_ns", lambda: 10)  # files are named by it
    again = replace(POINT, value=0.003, recorded=recording_time(tmp_path))
    append(tmp_path, [again])
    assert read(tmp_path) == [again]


def test_two_machines_are_two_histories(tmp_path: Path) -> None:
    append(tmp_path, [POINT, replace(POINT, environment="e2")])
    assert [each.key for each in read_series(tmp_path)] == [("softmax", "latency", "e1"), ("softmax", "latency", "e2")]


def test_many_files_become_one_and_nothing_is_lost(tmp_path: Path) -> None:
    points = [replace(POINT, commit=f"c{i}", time=float(i)) for i in range(history.COMPACT_FROM)]
    for point in points:
        append(tmp_path, [point])
    compact(tmp_path)
    assert read(tmp_path) == points and len(list(tmp_path.iterdir())) == 1
    compact(tmp_path)
    assert read(tmp_path) == points


def test_files_that_another_machine_joins_between_listing_and_reading_are_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [replace(POINT, commit=f"c{i}", time=float(i)) for i in range(history.COMPACT_FROM)]
    for point in points:
        append(tmp_path, [point])
    read_file, read_before = history._table, list[Path]()

    def joined_meanwhile(path: Path) -> object:
        read_before.append(path)
        if len(read_before) == 2:
            compact(tmp_path)
        return read_file(path)

    monkeypatch.setattr(history, "_table", joined_meanwhile)
    assert read(tmp_path) == points


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone.parquet").symlink_to(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"gone\.parquet"):
        read(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    append(tmp_path, [POINT])
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"0\.parquet cannot be read"):
        read(tmp_path)
    with pytest.raises(UsageError, match="nothing to record"):
        append(tmp_path, [])


def test_a_full_disk_is_one_message_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path, [POINT])

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(history, "write_whole", full)
    with pytest.raises(UsageError, match="No space left on device; the history is as it was"):
        append(tmp_path, [replace(POINT, commit="c2")])
    assert read(tmp_path) == [POINT]


def written(folder: Path, data: object) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps(data))
    return path


def test_pytest_benchmarks_json_goes_in_and_out(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text(as_pytest_benchmark([POINT, replace(POINT, case="linear", value=0.004)]))
    points, left_out = read_results(path)
    assert not left_out and [(p.commit, p.case, p.value, p.time) for p in points] == [
        ("c1", "softmax", 0.002, 1000.0), ("c1", "linear", 0.004, 1000.0)
    ]  # fmt: skip
    with pytest.raises(UsageError, match="one commit on one machine, not of 2 on 1"):
        as_pytest_benchmark([POINT, replace(POINT, commit="c2")])


def test_asvs_results_are_read(tmp_path: Path) -> None:
    data = {
        "commit_hash": "abc", "date": 1700000000000, "params": {"machine": "m"}, "env_name": "v",
        "result_columns": ["result", "params"],
        "results": {"time_one": [[0.5], []], "time_many": [[0.1, None, 0.3], [["1", "2", "3"]]], "time_failed": None},
    }  # fmt: skip
    points, left_out = read_results(written(tmp_path, data))
    found = [(p.case, p.value, p.time) for p in points]
    assert left_out == 2 and found == [
        ("time_one", 0.5, 1.7e9), ("time_many [0]", 0.1, 1.7e9), ("time_many [2]", 0.3, 1.7e9)
    ]  # fmt: skip


def test_google_benchmarks_medians_are_read_in_seconds(tmp_path: Path) -> None:
    row = {"run_name": "BM_x", "run_type": "iteration", "real_time": 9.0, "time_unit": "us"}
    middle = {**row, "run_type": "aggregate", "aggregate_name": "median", "real_time": 8.0}
    mean = {**middle, "aggregate_name": "mean", "real_time": 10.0}
    alone = {**row, "run_name": "BM_y", "real_time": 2.0, "time_unit": "ms"}
    context = {"date": "2026-01-01T00:00:00+00:00", "host_name": "h", "num_cpus": 2, "mhz_per_cpu": 3}
    failed = {**row, "run_name": "BM_bad", "error_occurred": True, "error_message": "no", "real_time": 0.0}
    skipped = {**row, "run_name": "BM_skipped", "skipped": True}
    data = {"context": context, "benchmarks": [row, mean, middle, alone, failed, skipped]}
    points, left_out = read_results(written(tmp_path, data))
    assert left_out == 2
    assert [(p.case, p.value) for p in points] == [("BM_x", pytest.approx(8e-6)), ("BM_y", pytest.approx(2e-3))]


@pytest.mark.parametrize(
    "wrong", [*({"real_time": t} for t in (float("nan"), float("inf"), -1.0, 0.0, None)), {"error_occurred": True}]
)
def test_a_repetition_of_google_benchmark_that_failed_leaves_the_others(tmp_path: Path, wrong: dict) -> None:
    row = {"run_name": "BM_x", "run_type": "iteration", "real_time": 9.0, "time_unit": "us"}
    data = {"context": {"date": "2026-01-01T00:00:00+00:00"}, "benchmarks": [row | wrong, row, row | wrong]}
    points, left_out = read_results(written(tmp_path, data))
    assert left_out == 2 and [p.value for p in points] == [pytest.approx(9e-6)]


def test_of_asvs_results_only_times_are_taken_and_the_others_are_counted(tmp_path: Path) -> None:
    names = ("a.peakmem_x", "a.B.mem_x", "track_time", "a.time_x", "B.timeraw_x", "a.TimeSuite", "time_a.track_x")
    data = ASV | {"results": {name: [[0.5]] for name in names}}
    points, left_out = read_results(written(tmp_path, data))
    assert [p.case for p in points] == ["a.time_x", "B.timeraw_x", "a.TimeSuite"] and left_out == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, None])
def test_what_is_no_time_becomes_no_point(tmp_path: Path, value: float | None) -> None:
    benchmark = {"fullname": "x", "stats": {"median": value}}
    assert read_results(written(tmp_path, PYTEST | {"benchmarks": [benchmark]})) == ([], 1)


def test_json_that_is_nested_too_deeply_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="is no JSON that can be read"):
        read_results(tmp_path / "deep.json")


def test_a_file_with_empty_cells_is_named(tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    path = append(tmp_path, [POINT])
    table = parquet.read_table(path)
    empty = table.set_column(table.schema.get_field_index("value"), "value", [[None]])
    parquet.write_table(empty.cast(table.schema), path)
    with pytest.raises(UsageError, match="cannot be read .*some of its cells are empty.*; delete it"):
        read(tmp_path)


ASV = {"commit_hash": "x", "date": 1000, "result_columns": ["result"], "results": {}}
PYTEST = {"machine_info": {}, "commit_info": {"id": "x"}, "benchmarks": [], "datetime": "2026-01-01"}


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"a": 1},
        {"machine_info": {}, "benchmarks": [{}]},
        ASV | {"results": []},
        ASV | {"results": {"time_x": [[1.0]]}, "commit_hash": 5},
        PYTEST | {"commit_info": "x"},
        {"context": {}, "benchmarks": ["x"]},
    ],
)
def test_what_is_none_of_these_is_one_message(tmp_path: Path, data: object) -> None:
    with pytest.raises(UsageError, match="is not the JSON of|looks like"):
        read_results(written(tmp_path, data))
