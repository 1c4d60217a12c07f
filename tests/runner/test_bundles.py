"""Bundles hold every measurement once, of one kind each, and come back from their files."""

from dataclasses import replace
from pathlib import Path

import pytest

from cab.contracts.messages import LawsAnswer
from cab.planning.plan import plan
from cab.runner.bundles import SECONDS_A_CHILD, Bundle, Done, cut, read_bundle, read_done, write_bundle, write_done
from cab.runner.supervisor import Options
from tests.runner.example_runs import FAST

GRID = [*FAST, "mechanism=none,mean,softmax", "seq_len=16,32,64", "meters=[latency,memory,flops]"]


def bundle(**changes: object) -> Bundle:
    options = Options(Path("/data"), force=True, retry=frozenset({"oom", "error"}), workers=2)
    verdicts = {"key": LawsAnswer(["heads: they mix"], {"padding": "why"}, 3)}
    made = Bundle(7, "run", plan(GRID).measurements, "/results", "/work", options, False, verdicts, attempt=1)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("minutes", [0.01, 1, 3, 1000])
def test_every_measurement_is_in_one_bundle_with_its_kind_and_its_case(minutes: float) -> None:
    measurements = plan(GRID).measurements
    pieces = cut(measurements, minutes)
    assert sorted(each.file for piece in pieces for each in piece) == sorted(each.file for each in measurements)
    for piece in pieces:
        assert len({each.hosted for each in piece}) == 1, "counts beside timings would keep a node to themselves"
        seconds = sum(each.processes * SECONDS_A_CHILD for each in piece)
        assert seconds <= 60 * minutes or len({each.case.id for each in piece}) == 1
    timed = [{each.case.id for each in piece} for piece in pieces if piece[0].hosted]
    assert sum(map(len, timed)) == 9, "the timings of a case are in one bundle"


def test_the_timings_of_a_bundle_have_the_threads_and_the_device_of_its_control() -> None:
    measurements = plan([*GRID, "threads=1,2"]).measurements
    on_gpus = [replace(each, case=replace(each.case, device=f"cuda:{i}")) for i in (0, 1) for each in measurements]
    pieces = cut([*measurements, *on_gpus], 1000)
    timed = [
        {(each.case.device, each.case.settings["threads"]) for each in piece} for piece in pieces if piece[0].hosted
    ]
    assert sorted(map(sorted, timed)) == [[(device, n)] for device in ("cpu", "cuda:0", "cuda:1") for n in (1, 2)]
    assert len(pieces) == 8, "counts are cut by kind of device alone"


def test_a_training_is_reckoned_by_its_timeout() -> None:
    grid = ["task=parity", "mechanism=none", "meters=[quality]", "seed=0,1,2,3", "timeout=600"]
    assert [len(piece) for piece in cut(plan(grid).measurements, 20)] == [2, 2]


def test_what_is_measured_of_one_training_is_in_one_bundle() -> None:
    grid = ["task=recall_ns", "mechanism=none", "meters=[quality,extrapolation]", "seed=0,1"]
    measurements = [
        replace(each, case=replace(each.case, settings={**each.case.settings, "asked_of": each.meter}))
        for each in plan(grid).measurements
    ]
    pieces = cut(measurements, 0.01)
    assert [len({each.training for each in piece}) for piece in pieces] == [1, 1]
    assert len({each.case.id for each in measurements}) == 4 and [len(piece) for piece in pieces] == [2, 2]


def test_a_bundle_is_reckoned_with_the_processes_that_its_ratios_may_take() -> None:
    measurements = plan([*FAST, "mechanism=none,mean", "seq_len=16,32", "meters=[latency_ratio]"]).measurements
    assert [len(piece) for piece in cut(measurements, 20 * SECONDS_A_CHILD / 60)] == [2, 2]


def test_a_bundle_comes_back_from_its_file(tmp_path: Path) -> None:
    write_bundle(tmp_path, bundle())
    assert read_bundle(tmp_path, 7) == bundle()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99}', '{"version": 1, "options": {}}'])
def test_a_damaged_bundle_is_an_error_that_names_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "7.bundle").write_text(text)
    with pytest.raises(ValueError, match="7.bundle cannot be read"):
        read_bundle(tmp_path, 7)


def test_only_a_whole_done_file_says_that_a_job_is_over(tmp_path: Path) -> None:
    assert read_done(tmp_path, 7) is None
    done = Done("n1", "no torch", {"key": LawsAnswer([], {}, 3)})
    write_done(tmp_path, 7, done)
    assert read_done(tmp_path, 7) == done
    (tmp_path / "7.done").write_text('{"host": "n1", "err')
    assert read_done(tmp_path, 7) is None


def test_timings_alone_ask_for_a_node_of_their_own() -> None:
    counts = [each for each in bundle().measurements if not each.hosted]
    assert bundle().is_timed and not bundle(measurements=counts).is_timed and not bundle(laws_only=True).is_timed
