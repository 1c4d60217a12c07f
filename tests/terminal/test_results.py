"""`cab results`: what a store holds is listed, shown, removed, merged and compared; none of it imports torch."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cab.cli import app
from typer.testing import CliRunner

from cab.planning.plan import plan
from cab.store import bundle
from cab.store.store import Store
from tests.store.example_entries import entry, write


def cab(*words: str, answer: str = "") -> tuple[int, str]:
    """Run `cab results ...`; return its exit code and its output."""
    done = CliRunner().invoke(app, ["results", *words], prog_name="cab", input=answer, env={"COLUMNS": "200"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def put(store: Store, request: str = "", meter: str = "latency", value: float = 1.0, **changes: Any) -> str:
    """Put an answer to a request of `cab run` into a store; return the case's id."""
    words = {"mechanism": "none", "task": "speed", "seq_len": "16", "pattern": "NS"}
    words |= {"pattern": "CS"} if "task=parity" in request else {}
    words |= dict(word.split("=", 1) for word in request.split())
    case = plan([*(f"{key}={each}" for key, each in words.items()), f"meters=[{meter}]"]).cases[0]
    write(store, {**entry(meter, value), "case": case.question(), "case_id": case.id, **changes})
    return case.id


def failed(status: str, reason: str, metric: str = "latency") -> dict[str, Any]:
    return {metric: {"status": status, "reason": reason, "unit": "seconds", "higher_is_better": False}}


def timed(value: float, low: float, high: float) -> dict[str, Any]:
    result = {"status": "ok", "unit": "seconds", "higher_is_better": False, "value": value}
    return {"latency": {**result, "ci_low": low, "ci_high": high, "count": 90, "processes": 5, "converged": True}}


def test_export_says_which_imported_bundles_it_leaves_out(store: Store) -> None:
    put(store)
    bundle.write(store.folder, store.folder.parent / "theirs", "1.0")
    imported = bundle.import_into(store.folder, store.folder.parent / "theirs")
    done = CliRunner().invoke(app, ["export", "ours", "--results", str(store.folder)])
    assert done.exit_code == 0 and f"left out: {imported}" in done.stderr
    assert len(bundle.read(Path("ours"))[0]) == 1


@pytest.fixture
def store(elsewhere: Path) -> Store:
    return Store(elsewhere / "results").open_for_writing()


@pytest.fixture
def ids(store: Store) -> dict[str, str]:
    """Fill the store: two mechanisms, one of which has failed in one of two patterns, and an older measurement."""
    found = {
        "none NS": put(store, "mechanism=none pattern=NS"),
        "none CS": put(store, "mechanism=none pattern=CS", metrics=failed("oom", "8 GiB")),
        "local CS": put(store, "mechanism=local mechanism.window=8 pattern=CS", metrics=timed(2e-3, 1e-3, 3e-3)),
    }
    put(store, "mechanism=none pattern=CS", meter="flops", key="k2")
    put(store, "mechanism=none pattern=NS", value=5.0, key="k0", time="2025-01-01T00:00:00Z")
    return found


def files(folder: Path = Path("results")) -> list[str]:
    return sorted(path.stem for path in (folder / "cases").glob("??/*.json"))


# list


def test_list_has_a_line_for_each_case_with_its_id_status_and_time(ids: dict[str, str]) -> None:
    code, output = cab("list")
    lines = {line.split()[0]: line for line in output.splitlines() if line[:8] in {each[:8] for each in ids.values()}}
    assert code == 0 and len(lines) == 3 and "3 cases, 4 files in results/cases" in output
    failed_line = lines[ids["none CS"][:8]]
    assert all(
        word in failed_line for word in ("speed", "none", "CS", "16", "oom", "2026-01-01 00:00", "flops latency")
    )


def test_the_list_has_columns_for_what_differs_within_a_task(store: Store) -> None:
    put(store, "threads=1")
    put(store, "threads=2 mechanism=mean")
    put(store, "task=parity training.steps=10")
    head = cab("list")[1].splitlines()[0].split()
    assert head == ["case", "task", "mechanism", "pattern", "n", "threads", "status", "measured", "meters"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["mechanism=local"], ["local CS"]),
        (["pattern=CS", "status=oom"], ["none CS"]),
        (["status=ok"], ["local CS", "none CS", "none NS"]),  # the FLOPs of what ran out of memory are there
        (["meter=flops"], ["none CS"]),
        (["seq_len=16", "pattern=NS"], ["none NS"]),
    ],
    ids=str,
)
def test_filters_narrow_the_list_as_they_do_a_report(ids: dict[str, str], words: list[str], shown: list[str]) -> None:
    code, output = cab("list", *words, "--json")
    assert code == 0 and sorted(each["case"] for each in json.loads(output)) == sorted(ids[name] for name in shown)


def test_an_id_narrows_the_list_and_history_adds_what_was_replaced(ids: dict[str, str]) -> None:
    _, output = cab("list", ids["none NS"][:6], "--json")
    assert [each["files"] for each in json.loads(output)] == [[f"{ids['none NS']}-k1"]]
    _, output = cab("list", ids["none NS"][:6], "--json", "--history")
    assert [each["files"] for each in json.loads(output)] == [[f"{ids['none NS']}-{key}" for key in ("k0", "k1")]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "pattern=NC"], "no result has pattern=NC; the results have CS, NS"),
        (["list", "meter=energy"], "no result has meter=energy; the results have flops, latency"),
        (["list", "status=broken"], "unknown status 'broken'"),
        (["list", "patern=CS"], "did you mean 'pattern'?"),
        (["list", "--results", "nowhere"], "there are no results in"),
        (["show", "zz"], "cab results list"),
        (["remove"], "which? Give filters"),
        (["remove", "--all", "pattern=CS"], "give one of the two"),
        (["merge", "results", "results"], "with itself"),
        (["merge", "results", "nowhere"], "no folder cases/ (a bundle is taken in by cab import)"),
        (["diff", "results", "nowhere"], "there are no results in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_message_and_changes_nothing(ids: dict[str, str], words: list[str], message: str) -> None:
    before = files()
    code, output = cab(*words)
    assert code == 2 and message in output and "Traceback" not in output, output
    assert files() == before


# show


def test_show_has_the_question_the_answers_with_intervals_and_where_they_lie(ids: dict[str, str]) -> None:
    code, output = cab("show", ids["local CS"][:5])
    assert code == 0
    for text in ("mechanism.window", "8", "2.00 ms", "[1.00, 3.00]", "90", "host", "status  ok"):
        assert text in output, text
    assert f"results/cases/{ids['local CS'][:2]}/{ids['local CS']}-k1.json" in output
    _, output = cab("show", ids["none CS"])
    assert "oom: 8 GiB" in output and "Measured by flops" in output
    _, output = cab("show", ids["none NS"])
    assert "Measured by latency, history: a newer one has replaced it" in output


def test_the_command_that_show_prints_asks_for_the_same_case_and_meters(ids: dict[str, str]) -> None:
    for case_id in ids.values():
        _, output = cab("show", case_id, "--json")
        shown = json.loads(output)
        again = plan(shlex.split(shown["command"])[2:])
        assert [case.id for case in again.cases] == [case_id]
        assert {each.meter for each in again.measurements} == {each["meter"] for each in shown["measurements"]}


# remove


def test_remove_says_what_goes_and_takes_no_for_an_answer(ids: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cab.terminal.results_remove._somebody_is_there", lambda: True)
    before = files()
    for answer in ("n\n", "\n", "what\n"):
        code, output = cab("remove", "mechanism=none", answer=answer)
        assert code == 0 and "nothing was removed" in output and files() == before
        assert "2 cases, 4 files" in output and ids["none CS"][:8] in output and ids["local CS"][:8] not in output
    code, output = cab("remove", "mechanism=none", answer="y\n")
    assert code == 0 and "removed: 4 files" in output and files() == [f"{ids['local CS']}-k1"]


def test_without_anybody_to_ask_nothing_goes_unless_yes_was_said(ids: dict[str, str]) -> None:
    before = files()
    code, output = cab("remove", "status=oom")
    assert code == 2 and "--yes" in output and files() == before
    code, output = cab("remove", "status=oom", "--yes")
    assert code == 0 and set(before) - set(files()) == {f"{ids['none CS']}-k1"}  # its FLOPs stay


def test_what_is_removed_takes_its_history_with_it(ids: dict[str, str]) -> None:
    code, _ = cab("remove", ids["none NS"][:7], "--yes")
    assert code == 0 and not [file for file in files() if file.startswith(ids["none NS"])]
    code, _ = cab("remove", "--all", "--yes")
    assert code == 0 and files() == []


def test_what_was_removed_is_measured_again(elsewhere: Path) -> None:
    runner, grid = CliRunner(), ["mechanism=none", "task=speed", "seq_len=16,32", "batch=1", "threads=1"]
    assert runner.invoke(app, ["run", *grid, "meters=[flops]"]).exit_code == 0
    assert cab("remove", "seq_len=32", "--yes")[0] == 0
    assert "measurements done already: 1" in runner.invoke(app, ["run", *grid, "meters=[flops]", "--dry-run"]).output


# merge


def test_merge_names_what_was_added_and_which_of_two_answers_stays(ids: dict[str, str], elsewhere: Path) -> None:
    shutil.copytree("results", "theirs")
    theirs = Store(elsewhere / "theirs")
    newer = put(theirs, "mechanism=none pattern=NS", value=9.0, time="2026-06-01T00:00:00Z")
    added = put(theirs, "mechanism=mean pattern=NC")
    code, output = cab("merge", "results", "theirs")
    assert code == 0 and "added: 1 file of 1 case; the same in both: 4; two answers: 1" in output
    reason = "theirs's stays, not results's: asked for later, 2026-06-01T00:00:00Z against 2026-01-01T00:00:00Z"
    assert newer[:8] in output and reason in output
    assert files() == files(Path("theirs")) and f"{added}-k1" in files()


# diff


def test_diff_has_the_ratio_with_its_interval_and_what_only_one_has(ids: dict[str, str], elsewhere: Path) -> None:
    shutil.copytree("results", "theirs")
    theirs = Store(elsewhere / "theirs")
    put(theirs, "mechanism=local mechanism.window=8 pattern=CS", metrics=timed(8e-3, 7e-3, 9e-3))
    put(theirs, "mechanism=none pattern=CS", metrics=timed(1e-3, 1e-3, 1e-3))
    only_theirs = put(theirs, "mechanism=mean pattern=NC")
    cab("remove", ids["none NS"], "--yes", "--results", "theirs")
    code, output = cab("diff", "results", "theirs")
    (line,) = [line for line in output.splitlines() if line.startswith(ids["local CS"][:8])]
    assert code == 0 and line.split()[-6:] == ["2.00", "8.00", "0.250", "[0.124,", "0.383]", "less"]
    assert "oom against ok" in output and "1 less" in output and "1 equal" in output
    assert f"only in A, results: 1 case\n  {ids['none NS'][:8]}" in output
    assert f"only in B, theirs: 1 case\n  {only_theirs[:8]}" in output
    _, output = cab("diff", "results", "theirs", "mechanism=local", "--json")
    found = json.loads(output)
    assert [pair["verdict"] for pair in found["metrics"]] == ["less"] and found["only_a"] == found["only_b"] == []


def test_values_whose_intervals_allow_the_ratio_1_are_not_told_apart(ids: dict[str, str], elsewhere: Path) -> None:
    shutil.copytree("results", "theirs")
    request = "mechanism=local mechanism.window=8 pattern=CS"
    put(Store(elsewhere / "theirs"), request, metrics=timed(2.5e-3, 1.5e-3, 3.5e-3))
    assert "1 not told apart" in cab("diff", "results", "theirs", "mechanism=local")[1]


@pytest.mark.parametrize(
    "command", ["list", "show ID", "remove --all --yes", "merge results copy", "diff results copy"]
)
def test_nothing_imports_torch(ids: dict[str, str], command: str) -> None:
    shutil.copytree("results", "copy")
    words = ["results", *command.replace("ID", ids["none NS"]).split()]
    code = (
        f"import sys\nfrom cab.cli import app\ntry:\n    app({words!r})\nexcept SystemExit as end:\n"
        "    assert not end.code, end.code\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_what_an_older_method_measured_is_said_and_listed_with_the_history(ids: dict[str, str]) -> None:
    older = put(Store(Path("results")), "mechanism=mean", version=0)
    _, output = cab("list")
    assert older[:8] not in output and "not listed: latency of 1 case, by an older method; --history" in output
    _, output = cab("list", "--history")
    assert older[:8] in output and "older method" not in output
