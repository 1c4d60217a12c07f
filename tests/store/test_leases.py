"""Leases: one living owner at a time, none for ever, whatever clocks and names hosts have."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.store import claims, leases

FORK = multiprocessing.get_context("fork")


def _hold(path: Path, held: object) -> None:
    with leases.lease(path, 0.05, 1.0) as claimed:
        assert claimed
        held.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_a_living_owner_keeps_its_lease_and_a_killed_one_loses_it(tmp_path: Path) -> None:
    path, held = tmp_path / "case.lock", FORK.Event()
    owner = FORK.Process(target=_hold, args=(path, held))
    owner.start()
    try:
        assert held.wait(10)
        with leases.lease(path, 0.05, 5.0) as claimed:
            assert not claimed
        assert owner.pid is not None
        os.kill(owner.pid, signal.SIGKILL)
        owner.join()
        with leases.lease(path, 0.05, 0.5) as claimed:
            assert claimed
    finally:
        owner.kill()
        owner.join()
    assert list(tmp_path.iterdir()) == []


def test_only_the_observers_own_clock_counts(tmp_path: Path) -> None:
    path, now = tmp_path / "case.lock", [1e9]
    path.write_text("dead 000000000007")
    os.utime(path, (4e9, 4e9))  # a host whose clock is far ahead

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with leases.lease(path, 2.0, 30.0, lambda: now[0], sleep) as claimed:
        assert claimed and 30 <= now[0] - 1e9 <= 31


def test_time_in_which_the_observer_stood_still_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now, reads = tmp_path / "case.lock", [0.0], [0]
    path.write_text("living 000000000007")

    def content(each: Path) -> str | None:
        reads[0] += 1
        now[0] += 60.0 if reads[0] == 3 else 0.0  # the server was away
        if reads[0] == 5:
            path.write_text("living 000000000008")  # and so was the owner's renewal
        return each.read_text() if each.exists() else None

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(leases, "_content", content)
    with leases.lease(path, 2.0, 30.0, lambda: now[0], sleep) as held:
        assert held is None
    assert path.read_text() == "living 000000000008"


def test_an_owner_that_lost_its_lease_knows(tmp_path: Path) -> None:
    path = tmp_path / "case.lock"
    with leases.lease(path) as held:
        assert held is not None and held()
        path.write_text("another 000000000000")
        assert not held()
    assert path.read_text() == "another 000000000000"


def test_a_disk_without_hard_links_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(UsageError, match="no hard links"), leases.lease(tmp_path / "case.lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lease_taken_meanwhile_is_not_removed_for_the_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "case.lock"
    path.write_text("living 000000000000")
    leases._remove(path, "dead 000000000007")
    assert path.read_text() == "living 000000000000"
    # taken between the look at it and the rename
    read, dead = leases._content, ["dead 000000000007"]
    monkeypatch.setattr(leases, "_content", lambda each: dead.pop() if dead else read(each))
    leases._remove(path, "dead 000000000007")
    assert path.read_text() == "living 000000000000" and list(tmp_path.iterdir()) == [path]


def _count(folder: Path) -> None:
    for number in range(40):
        with claims.claim(folder / "locks" / f"{number}.lock") as claimed:
            if claimed and not (folder / f"{number}").exists():
                (folder / f"{number}").touch(exist_ok=False)


def test_two_writers_by_lease_do_every_piece_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAB_LOCKS", "lease")
    writers = [FORK.Process(target=_count, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {"locks", *map(str, range(40))}
    assert list((tmp_path / "locks").iterdir()) == []


def test_the_type_of_the_file_system_or_the_user_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAB_LOCKS", raising=False)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {tmp_path}/far nfs4 rw 0 0\n")
    assert leases.needed(tmp_path / "far" / "store", mounts) and not leases.needed(tmp_path / "near", mounts)
    monkeypatch.setenv("CAB_LOCKS", "flock")
    assert not leases.needed(tmp_path / "far", mounts)
    monkeypatch.setenv("CAB_LOCKS", "none")
    with pytest.raises(UsageError, match="lease, flock"):
        leases.needed(tmp_path, mounts)
