"""A merge takes all or nothing, whenever it is killed; of two answers to one question the later one stays."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cab.errors import UsageError
from cab.store import claims, controls
from cab.store.merging import merge
from cab.store.store import COPIED, Store
from cab.store.table import table
from tests.store.example_entries import entry, write

FILE = f"{entry()['case_id']}-k1"
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other").open_for_writing()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "own").open_for_writing()


def values(store: Store) -> list[float]:
    return sorted(table(store, history=True)["value"])


def test_what_is_new_is_added_and_the_source_stays_as_it_is(store: Store, other: Store) -> None:
    write(store, entry(value=1.0))
    write(other, entry(value=1.0))
    write(other, entry("flops", 2.0, key="k2"))
    before = {path: path.read_bytes() for path in other.folder.rglob("*.json")}
    merged = merge(store, [other])
    assert [each.meter for each in merged.added] == ["flops"] and merged.same == 1 and not merged.conflicts
    assert values(store) == [1.0, 2.0]
    assert before == {path: path.read_bytes() for path in other.folder.rglob("*.json")}
    assert [path.name for path in store.folder.iterdir() if "merg" in path.name] == []


@pytest.mark.parametrize(("own", "others", "kept"), [(EARLY, LATE, 2.0), (LATE, EARLY, 1.0), (EARLY, EARLY, 1.0)])
def test_of_two_answers_to_one_question_the_one_asked_for_last_stays(
    store: Store, other: Store, own: str, others: str, kept: float
) -> None:
    write(store, entry(value=1.0, time=own))
    write(other, entry(value=2.0, time=others))
    (conflict,) = merge(store, [other]).conflicts
    assert values(store) == [kept]
    winner, loser = (other, store) if kept == 2.0 else (store, other)
    assert (conflict.kept, conflict.other) == (winner.folder, loser.folder)
    assert conflict.reason == ("was first" if own == others else f"asked for later, {LATE} against {EARLY}")


def test_when_it_was_asked_for_counts_before_when_it_was_measured(store: Store, other: Store) -> None:
    write(store, entry(value=1.0, time=EARLY, asked="2026-01-03T00:00:00Z"))
    write(other, entry(value=2.0, time=LATE))
    merge(store, [other])
    assert values(store) == [1.0]


def test_answers_of_other_sources_and_machines_stay_beside_each_other(store: Store, other: Store) -> None:
    write(store, entry(value=1.0, time=LATE))
    write(other, entry(value=2.0, time=EARLY, key="k9"))
    merged = merge(store, [other])
    assert not merged.conflicts and [each.key for each in merged.beside] == ["k9"]
    assert values(store) == [1.0, 2.0] and list(table(store)["value"]) == [1.0]


def test_a_damaged_file_is_replaced_by_a_sound_one(store: Store, other: Store) -> None:
    write(store, entry())
    store.path(FILE).write_text("{")
    write(other, entry(value=2.0))
    merge(store, [other])
    assert values(store) == [2.0] and [path.stem for path in store.damaged] == [FILE]


def test_three_stores_become_one(store: Store, other: Store, tmp_path: Path) -> None:
    third = Store(tmp_path / "third").open_for_writing()
    write(store, entry(value=1.0, time=EARLY))
    write(other, entry(value=2.0, time=LATE))
    write(third, entry(value=3.0, time="2026-01-03T00:00:00Z"))
    merged = merge(store, [other, third])
    assert values(store) == [3.0] and [each.kept for each in merged.conflicts] == [other.folder, third.folder]


def test_peak_rates_and_imported_bundles_come_along(store: Store, other: Store) -> None:
    for folder, text in ((store.folder, "own"), (other.folder, "other's")):
        (folder / "peaks").mkdir()
        (folder / "peaks" / "e1.json").write_text(text)
    (other.folder / "peaks" / "e2.json").write_text("new")
    (other.folder / "bundles" / "abc").mkdir(parents=True)
    (other.folder / "bundles" / "abc" / "results.parquet").write_text("rows")
    merge(store, [other])
    assert [path.read_text() for path in sorted((store.folder / "peaks").iterdir())] == ["own", "new"]
    assert (store.folder / "bundles" / "abc" / "results.parquet").read_text() == "rows"


def test_what_is_no_other_store_is_refused(store: Store, tmp_path: Path) -> None:
    for source, message in ((Store(tmp_path / "none"), "no folder cases/"), (store, "with itself")):
        with pytest.raises(UsageError, match=message):
            merge(store, [source])


def test_two_merges_into_one_store_do_not_meet(store: Store, other: Store) -> None:
    with claims.claim(store.folder / "locks" / "merge.lock") as held:
        assert held
        with pytest.raises(UsageError, match="under way"):
            merge(store, [other])


def test_on_a_shared_disk_a_merge_holds_a_lease_and_one_that_lost_it_takes_nothing(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAB_LOCKS", "lease")
    target, lock = Store(tmp_path / "shared").open_for_writing(), tmp_path / "shared" / "locks" / "merge.lock"
    write(other, entry())
    copy2, owners = shutil.copy2, []

    def copied_while_it_stood_still(*args: Any) -> Any:
        owners.append(lock.read_text())
        lock.write_text("another 000000000000")
        return copy2(*args)

    with monkeypatch.context() as patched, pytest.raises(UsageError, match="nothing was merged"):
        patched.setattr(shutil, "copy2", copied_while_it_stood_still)
        merge(target, [other])
    assert len(owners) == 1 and values(target) == []
    lock.unlink()
    merge(target, [other])
    assert values(target) == [1.0] and not lock.exists()


def test_a_users_folder_whose_name_begins_with_merge_stays_as_it_is(store: Store) -> None:
    notes = store.folder / "merge-notes"
    notes.mkdir()
    (notes / "todo.json").write_text("{}")
    assert list(store.entries()) == [] and (notes / "todo.json").read_text() == "{}"


def test_what_is_no_result_in_a_folder_of_copies_is_left_there(store: Store) -> None:
    copies = store.folder / f"{COPIED}x"
    copies.mkdir()
    (copies / "todo.txt").write_text("mine")
    store.finish_merges()
    assert (copies / "todo.txt").read_text() == "mine"


@pytest.mark.parametrize("moved", [False, True])
def test_another_process_may_finish_the_merge_at_any_moment(
    store: Store, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    copies = store.folder / f"{COPIED}x"
    copies.mkdir()
    (copies / f"{FILE}.json").write_text(json.dumps(entry()))
    listdir, finishing = os.listdir, []

    def listed_while_another_finishes(folder: Path) -> list[str]:
        names = listdir(folder) if moved else []
        if not finishing:
            finishing.append(True)
            Store(store.folder).finish_merges()
        return names or listdir(folder)

    monkeypatch.setattr(os, "listdir", listed_while_another_finishes)
    store.finish_merges()
    assert not copies.exists() and store.read(FILE) is not None and not store.damaged


@pytest.mark.parametrize(("measured", "kept"), [("2026-01-03T00:00:00Z", 3.0), (EARLY, 2.0)])
def test_what_a_run_keeps_while_a_merge_copies_stays_where_it_is_later(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, measured: str, kept: float
) -> None:
    write(other, entry(value=2.0, time=LATE))
    copy2 = shutil.copy2

    def copied_during_a_run(*args: Any) -> Any:
        write(store, entry(value=3.0, time=measured))
        return copy2(*args)

    monkeypatch.setattr(shutil, "copy2", copied_during_a_run)
    merge(store, [other])
    assert values(store) == [kept]


CONTROL = controls.Control("r", 1, {"host": "n1"}, 1e-3, 2e-3)


def test_a_control_that_was_timed_after_its_bundle_replaces_one_that_was_not(store: Store, other: Store) -> None:
    controls.keep(store.folder, replace(CONTROL, after=None))
    controls.keep(other.folder, CONTROL)
    merge(store, [other])
    assert controls.load(store.folder) == [CONTROL]
    controls.keep(other.folder, replace(CONTROL, after=None))
    merge(store, [other])
    assert controls.load(store.folder) == [CONTROL]
    (store.folder / controls.FOLDER / f"{CONTROL.bundle}.json").write_text("{")
    controls.keep(other.folder, CONTROL)
    merge(store, [other])
    assert controls.load(store.folder) == [CONTROL]


@pytest.mark.parametrize(("owner", "name"), [(Path, "replace"), (Path, "rmdir")])
def test_a_merge_that_is_killed_when_all_is_copied_has_the_controls_of_its_cases(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    write(other, entry(value=1.0))
    controls.keep(other.folder, CONTROL)
    killed(lambda: merge(store, [other]), monkeypatch, owner, name, 0)
    assert values(store) == [1.0] and controls.load(store.folder) == [CONTROL]


def killed(work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
    """Do `work` in a child process that is killed at one call of a function."""
    if (child := os.fork()) == 0:
        function, done = getattr(owner, name), []

        def until_killed(*args: Any, **kwargs: Any) -> Any:
            if len(done) == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(args)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, until_killed)
        work()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, "the child was to be killed, and ended"


@pytest.mark.parametrize(
    ("owner", "name", "calls", "complete"),
    [
        (shutil, "copy2", 0, False),
        (shutil, "copy2", 2, False),
        (Path, "rename", 0, False),  # all is copied
        (Path, "replace", 0, True),  # the copies have their name, and none has its place
        (Path, "replace", 2, True),
        (Path, "rmdir", 0, True),
    ],
    ids=lambda value: str(getattr(value, "__name__", value)),
)
def test_killed_at_any_time_it_has_taken_all_or_nothing_and_can_be_done_again(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int, complete: bool
) -> None:
    write(store, entry(value=0.0, time=EARLY))
    for i in range(4):
        write(other, entry(value=1.0 + i, time=LATE, key=f"k{i}"))  # k1 is in both
    killed(lambda: merge(store, [other]), monkeypatch, owner, name, calls)
    seen = Store(store.folder)
    assert values(seen) == ([1.0, 2.0, 3.0, 4.0] if complete else [0.0]) and not seen.damaged
    merge(seen, [other])
    assert values(seen) == [1.0, 2.0, 3.0, 4.0] and not seen.damaged
    assert [path.name for path in store.folder.iterdir() if "merg" in path.name] == []
