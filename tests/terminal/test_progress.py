"""A terminal shows a bar and what is not ok; a log has a line for each measurement."""

import io

import pytest
from rich.console import Console

from cab.planning.measurement import Measurement
from cab.planning.plan import plan
from cab.terminal import progress
from cab.terminal.progress import Display


@pytest.fixture(scope="module")
def measurements() -> list[Measurement]:
    """Two cases of two meters."""
    grid = ["mechanism=none,linear", "task=speed", "seq_len=16", "batch=1", "meters=[memory,flops]"]
    return list(plan(grid).measurements)


def lines_of(out: io.StringIO) -> list[str]:
    return [line for line in out.getvalue().splitlines() if line]


def test_a_log_has_a_line_for_each_measurement_and_counts_the_cases_that_are_done(
    measurements: list[Measurement],
) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)) as display:
        display.start(measurements, measurements, len(measurements))
        for measurement in measurements:
            display.step(measurement, 1, 0)
            display.done(measurement, "ok", "")
    counts = [line.split("]")[0] for line in lines_of(out)]
    assert counts == ["[0/2 cases", "[1/2 cases", "[1/2 cases", "[2/2 cases"]
    assert all(line.endswith(" ok") for line in lines_of(out))


def test_cases_of_an_earlier_run_count_as_done(measurements: list[Measurement]) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)) as display:
        display.start(measurements, measurements[:1], 1)
    assert lines_of(out) == ["1 of 2 cases are done already"]


def test_a_terminal_shows_a_reason_and_no_line_for_what_is_ok(measurements: list[Measurement]) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200, force_terminal=True, color_system=None)) as display:
        display.start(measurements, measurements, len(measurements))
        display.done(measurements[0], "ok", "")
        display.done(measurements[1], "oom", "[red]8 GiB")
    assert "oom: [red]8 GiB" in out.getvalue() and " ok" not in out.getvalue()


def test_a_log_says_what_runs_now_at_most_once_in_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    display = Display(Console(file=out, width=200))
    for now in (1000.0, 1001.0, 1000.5 + progress.LOG_INTERVAL, 1001.0 + 2 * progress.LOG_INTERVAL):
        display.doing(f"step at {now:.1f}")
    assert [line.split()[-1] for line in lines_of(out)] == ["1000.0", "1010.5", "1021.0"]


def test_a_note_is_no_markup() -> None:
    out = io.StringIO()
    Display(Console(file=out, width=200)).note("set aside: [bold]x.json")
    assert lines_of(out) == ["note: set aside: [bold]x.json"]


def test_a_terminal_has_a_line_for_each_worker_until_one_works_alone(measurements: list[Measurement]) -> None:
    with Display(Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)) as display:
        display.start(measurements, measurements, len(measurements))

        def shown() -> list[str]:
            return str(display._bar.tasks[0].description).split("\n")

        display.doing("none: training", 0)
        display.doing("mean: training", 1)
        assert shown() == ["worker 0: none: training", "worker 1: mean: training"]
        display.doing("", 0)
        assert shown() == ["worker 1: mean: training"]
        display.doing("none: latency")
        assert shown() == ["none: latency"]


def test_a_log_says_every_half_minute_how_long_the_rest_takes(
    measurements: list[Measurement], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((1000.0, 1010.0, 1031.0, 1045.0, 1062.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    display = Display(Console(file=out, width=200))
    display.start(measurements, measurements, len(measurements))
    total = len(measurements)
    for _ in range(4):
        display.step(measurements[0], 1, 0)
    assert lines_of(out) == [
        f"2 of {total} processes in 0:31, about 0:{round(31 / 2 * (total - 2)):02d} left",
        f"4 of {total} processes in 1:02, about 0:{round(62 / 4 * (total - 4)):02d} left",
    ]


def test_what_is_measured_with_more_processes_lengthens_the_bar_and_no_time_left_is_negative(
    measurements: list[Measurement], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "ETA_INTERVAL", 0.0)
    clock = iter((1000.0, 1010.0, 1020.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    display = Display(Console(file=out, width=200))
    display.start(measurements, measurements, 1)
    display.step(measurements[0], 1, 1)
    display.step(measurements[0], 3, 0)
    assert lines_of(out) == [
        "1 of 2 processes in 0:10, about 0:10 left",
        "4 of 2 processes in 0:20, about 0:00 left",
    ]


def test_a_narrow_terminal_keeps_the_step_and_the_loss_in_sight() -> None:
    text = "softmax NS lra_text n=1024 lr=0.001 seed=0: step 120/1000 loss 0.6931 12 s"
    shown = progress.fitted(text, 45)
    assert len(shown) <= 45 and shown.endswith(": step 120/1000 loss 0.6931 12 s") and shown.startswith("softmax")
    assert progress.fitted("softmax: laws", 45) == "softmax: laws"
