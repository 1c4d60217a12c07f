"""All claims on one store are of one kind: the second kind is refused by name, whoever comes first."""

import multiprocessing
import os
from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.store import claims
from cab.store.store import Store

FORK = multiprocessing.get_context("fork")


def test_a_store_names_its_kind_and_refuses_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for first, second, what in (
        ("lease", "flock", "Set CAB_LOCKS=lease on this host, or delete"),
        ("flock", "lease", "Set CAB_LOCKS=lease on every host, and delete"),
    ):
        store, file = Store(tmp_path / first), tmp_path / first / "locks" / claims.KIND
        monkeypatch.setenv("CAB_LOCKS", first)
        store.open_for_writing().open_for_writing()
        assert file.read_text() == first and [path.name for path in file.parent.iterdir()] == [claims.KIND]
        monkeypatch.setenv("CAB_LOCKS", second)
        with pytest.raises(UsageError, match=what) as raised:
            store.open_for_writing()
        assert str(file) in str(raised.value) and f"claim by {second}" in str(raised.value)
        file.unlink()
        assert store.open_for_writing() and file.read_text() == second


@pytest.mark.parametrize("content", [b"", b"lea", b"\xff", b"leaseflock"])
def test_a_damaged_kind_is_refused_and_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / claims.KIND).write_bytes(content)
    with pytest.raises(UsageError, match=f"delete {tmp_path}/locks/kind"):
        Store(tmp_path).open_for_writing()


def test_without_links_a_store_claims_by_flock_and_never_by_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setenv("CAB_LOCKS", "lease")
    with pytest.raises(UsageError, match="has no hard links.* set CAB_LOCKS=flock on every host"):
        Store(tmp_path).open_for_writing()
    assert list((tmp_path / "locks").iterdir()) == [], "what the message advises must then be possible"
    monkeypatch.setenv("CAB_LOCKS", "flock")
    Store(tmp_path).open_for_writing()
    assert (tmp_path / "locks" / claims.KIND).read_text() == "flock"
    assert [path.name for path in (tmp_path / "locks").iterdir()] == [claims.KIND]


def _open(folder: Path, kind: str, start: object, opened: object) -> None:
    os.environ["CAB_LOCKS"] = kind
    start.wait()  # type: ignore[attr-defined]
    try:
        Store(folder).open_for_writing()
    except UsageError:
        return
    opened.put(kind)  # type: ignore[attr-defined]


def test_of_two_kinds_that_come_at_once_one_stays(tmp_path: Path) -> None:
    for turn in range(10):
        start, opened = FORK.Event(), FORK.Queue()
        kinds = ["lease", "flock"] * 3
        writers = [FORK.Process(target=_open, args=(tmp_path / str(turn), kind, start, opened)) for kind in kinds]
        for writer in writers:
            writer.start()
        start.set()
        for writer in writers:
            writer.join(30)
        assert [writer.exitcode for writer in writers] == [0] * 6
        assert {opened.get(timeout=5) for _ in range(3)} == {(tmp_path / str(turn) / "locks" / "kind").read_text()}
        assert opened.empty()
