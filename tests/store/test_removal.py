"""What is removed is gone with what an interrupted training left, and nothing else is."""

import os
import signal
from pathlib import Path

import pytest

from cab.store.removal import remove
from cab.store.store import Store
from cab.store.table import table
from tests.store.example_entries import entry, write

FILE = f"{entry()['case_id']}-k1"


def test_a_file_goes_and_the_others_stay(store: Store) -> None:
    write(store, entry())
    write(store, entry("flops", 2.0, key="k2"))
    assert len(table(store)) == 2  # the cache is warm
    assert remove(store, [FILE, "0000000000000000-k1"]) == 1
    assert list(table(store)["metric"]) == ["flops"] and not store.damaged


def test_the_state_of_an_interrupted_training_goes_too(store: Store) -> None:
    write(store, entry())
    for file in (FILE, "other"):
        store.checkpoint(file).parent.mkdir(parents=True)
        store.checkpoint(file).write_text("state")
    remove(store, [FILE])
    assert not store.checkpoint(FILE).exists() and store.checkpoint("other").exists()


def test_killed_on_its_way_it_leaves_whole_files_and_the_same_request_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for i in range(4):
        write(store, entry(value=float(i), key=f"k{i}"))
        files.append(f"{entry()['case_id']}-k{i}")
    if (child := os.fork()) == 0:
        unlink, done = Path.unlink, []

        def until_killed(path: Path, missing_ok: bool = False) -> None:
            if len(done) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(path)
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", until_killed)
        remove(store, files)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [e.file for _, e in store.entries()] == files[2:] and not store.damaged
    assert remove(store, files) == 2 and table(store).empty
