"""The summary in the terminal: what stands there tells its rows apart."""

import io

from rich.console import Console

from cab.analysis.results import Results
from cab.report.summary import print_summary
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows, with_columns


def printed(results: Results) -> list[str]:
    console = Console(file=io.StringIO(), width=160)
    print_summary(results, console, 40)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_boards_of_two_machines_and_of_two_settings_are_told_apart() -> None:
    cases = [
        with_columns(case_rows({"latency": seconds}, settings=settings), environment_id=machine)
        for machine, settings, seconds in (("one", {}, 1.0), ("two", {}, 2.0), ("one", {"threads": 1}, 3.0))
    ]
    head, *rows = printed(Results(table_of(*cases), environments("one", "two")))
    assert head.split()[:5] == ["task", "pattern", "n", "settings", "machine"]
    places = sorted(" ".join(row.split()[3:-5]) for row in rows[:3])
    assert places == ["host-one", "host-two", "threads=1 host-one"] and "fewer boards" in rows[3]


def test_what_a_task_alone_decides_has_no_column() -> None:
    cases = [
        training_rows("softmax", 0.9, task=task, data_source=f"data of {task}", batch=b)
        for task, b in (("a", 16), ("b", 32))
    ]
    head, *rows = printed(Results(table_of(*cases), environments()))
    assert "data_source" not in head and "batch" not in head and "one board" in rows[-1]


def test_a_score_stands_once_on_however_many_machines() -> None:
    scored = training_rows("softmax", 0.9)
    timed = [
        with_columns(scored, metric="latency", unit="seconds", value=1.0, environment_id=machine)
        for machine in ("one", "two")
    ]
    _, *rows = printed(Results(table_of(scored, *timed), environments("one", "two")))
    assert sum(row.startswith("lra_text") for row in rows) == 1
