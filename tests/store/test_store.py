"""The store keeps files whole, sets damaged ones aside and names them."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cab.errors import UsageError
from cab.store.store import Store
from cab.store.table import environments, table
from tests.store.example_entries import entry, write


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', "\x00\xff"])
def test_a_damaged_file_is_set_aside_and_named(store: Store, content: str) -> None:
    write(store, entry())
    path = store.path(f"{entry()['case_id']}-k1")
    path.write_bytes(content.encode("latin1"))
    assert store.read(path.stem) is None
    assert store.damaged == [store.folder / "damaged" / path.name] and not path.exists()


def test_links_to_nothing_and_nests_too_deep_are_no_entries(store: Store) -> None:
    write(store, entry())
    folder = store.path(f"{entry()['case_id']}-k1").parent
    (folder / "lost.json").symlink_to(folder / "nowhere")
    (folder / "deep.json").write_text("[" * 100_000)
    assert list(table(store)["value"]) == [1.0] and [path.stem for path in store.damaged] == ["deep"]


def test_a_file_under_another_name_is_not_taken_for_its_question(store: Store) -> None:
    write(store, entry())
    path = store.path(f"{entry()['case_id']}-k1")
    path.rename(path.with_name("0000-k1.json"))
    assert table(store).empty and len(store.damaged) == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"metrics": None},
        {"metrics": {"latency": None}},
        {"metrics": {"latency": {"status": "splendid"}}},
        {"environment": None},
        {"environment_id": None},
        {"processes": None},
        {"case": {}},
        {"floors": [1]},
        {"curve": [None]},
    ],
    ids=str,
)
def test_a_file_of_another_shape_is_set_aside_and_costs_no_other(store: Store, odd: dict[str, Any]) -> None:
    write(store, entry("flops", 2.0, key="k2"))
    write(store, {**entry(), **odd})
    assert list(table(store)["value"]) == [2.0] and len(environments(store)) == 1
    assert [path.stem for path in store.damaged] == [f"{entry()['case_id']}-k1"]


def test_what_is_written_is_read_back(store: Store) -> None:
    write(store, entry())
    kept = store.read(f"{entry()['case_id']}-k1")
    assert kept is not None and [path for path, _ in store.entries()] == [store.path(kept.file)]
    store.path(kept.file).unlink()
    store.write(kept)
    assert store.read(kept.file) == kept and not store.damaged
    assert store.read(f"{kept.case_id}-k2") is None


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ELOOP], ids=os.strerror)
def test_a_file_that_cannot_be_read_now_stays_and_is_named(
    store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, entry())
    path = store.path(f"{entry()['case_id']}-k1")

    def unreadable(self: Path) -> bytes:
        raise OSError(number, os.strerror(number), str(self))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", unreadable)
        with pytest.raises(UsageError, match=f"{path.name} cannot be read: {os.strerror(number)}"):
            store.read(path.stem)
    assert store.read(path.stem) is not None and not store.damaged


def test_a_file_that_another_host_replaces_meanwhile_is_read_again_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, entry())
    path, whole, asked = store.path(f"{entry()['case_id']}-k1"), Path.read_bytes, []

    def stale(self: Path) -> bytes:
        asked.append(self)
        if len(asked) <= failures:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))
        return whole(self)

    monkeypatch.setattr(Path, "read_bytes", stale)
    failures = 1
    assert store.read(path.stem) is not None and len(asked) == 2 and not store.damaged
    failures = 4
    with pytest.raises(UsageError, match="cannot be read"):
        store.read(path.stem)
    assert len(asked) == 4 and path.exists()


def test_a_folder_in_the_place_of_a_file_is_set_aside(store: Store) -> None:
    write(store, entry())
    folder = store.path(f"{entry()['case_id']}-k2")
    folder.mkdir()
    assert store.read(folder.stem) is None and [path.stem for path in store.damaged] == [folder.stem]
