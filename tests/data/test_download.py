"""Downloads resume, are verified, and appear only when complete; so do folders."""

import hashlib
import io
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from cab.data.download import atomic_folder, download, folder_lock, interrupted_download, read_verified, unpack
from cab.errors import UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_verified_and_leaves_nothing_else(server: Any, tmp_path: Path) -> None:
    file = download(server.url, server.hash, tmp_path)
    assert file.read_bytes() == server.content and names(tmp_path) == ["file.bin"]
    download(server.url, server.hash, tmp_path)
    assert server.requests == [None]  # a verified file is not requested again


def test_a_download_that_broke_off_goes_on_where_it_stopped(server: Any, tmp_path: Path) -> None:
    server.breaks_at = 100_000
    with pytest.raises(UsageError, match="Run the same command again to go on where it stopped"):
        download(server.url, server.hash, tmp_path)
    assert names(tmp_path) == ["file.bin.part"]
    assert "65,536 bytes" in str(interrupted_download(tmp_path, "file.bin"))
    server.breaks_at = None
    assert download(server.url, server.hash, tmp_path).read_bytes() == server.content
    assert server.requests == [None, "bytes=65536-"]
    assert interrupted_download(tmp_path, "file.bin") is None


def test_a_connection_that_brings_nothing_leaves_nothing_to_finish(server: Any, tmp_path: Path) -> None:
    server.breaks_at = 0
    with pytest.raises(UsageError, match="cannot be downloaded"):
        download(server.url, server.hash, tmp_path)
    assert interrupted_download(tmp_path, "file.bin") is None


def test_a_server_without_ranges_is_read_from_the_start(server: Any, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(server.content[:1000])
    server.ranges = False
    assert download(server.url, server.hash, tmp_path).read_bytes() == server.content


def test_a_download_killed_at_its_very_end_is_taken(server: Any, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(server.content)
    assert download(server.url, server.hash, tmp_path).read_bytes() == server.content


def test_another_file_than_the_known_one_is_refused_and_not_kept(server: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the expected file"):
        download(server.url, "sha256:" + "0" * 64, tmp_path)
    assert names(tmp_path) == []


def test_a_damaged_file_is_downloaded_again(server: Any, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(server.content[:-1])
    assert download(server.url, server.hash, tmp_path).read_bytes() == server.content


def test_no_internet_is_told_with_what_to_do(server: Any, tmp_path: Path) -> None:
    url, known_hash = server.url, server.hash
    server.server_close()
    with pytest.raises(
        UsageError, match=rf"\(the connection to 127.0.0.1:\d+ failed or broke\).*put file.bin into {tmp_path} yourself"
    ):
        download(url, known_hash, tmp_path)


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "tree") as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert names(tmp_path) == []
    (tmp_path / ".tree.part").mkdir()  # of a process that was killed
    (tmp_path / ".tree.part" / "old").touch()
    with atomic_folder(tmp_path / "tree") as temporary:
        (temporary / "new").touch()
    assert names(tmp_path) == ["tree"] and names(tmp_path / "tree") == ["new"]


def test_two_downloads_into_one_folder_wait_for_each_other(tmp_path: Path) -> None:
    order = []
    with folder_lock(tmp_path):

        def second() -> None:
            with folder_lock(tmp_path):
                order.append("second")

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match="cannot be written.*Choose another data folder"),
        folder_lock(tmp_path / "file"),
    ):
        pass


@pytest.mark.parametrize("damage", ["cut", "flipped", "not a tar"])
def test_a_damaged_archive_is_one_message(damage: str, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for i in range(8):
            member = tarfile.TarInfo(f"folder/{i}")
            member.size = 100
            tar.addfile(member, io.BytesIO(bytes(range(i, i + 100))))
    intact = packed.getvalue()
    damaged = {
        "cut": intact[: len(intact) // 2],
        "flipped": intact[:60] + b"\0\0\0\0" + intact[64:],
        "not a tar": b"tar?",
    }
    file = tmp_path / "file.tar.gz"
    file.write_bytes(damaged[damage])
    with pytest.raises(UsageError, match=f"{file} cannot be unpacked into"):
        unpack(file, tmp_path / "to", lambda name: name)
    file.write_bytes(intact)
    unpack(file, tmp_path / "to", lambda name: name)
    assert len(names(tmp_path / "to" / "folder")) == 8


def test_what_was_brought_is_read_only_where_it_is_the_known_file(tmp_path: Path) -> None:
    file, known = tmp_path / "file", hashlib.sha256(b"content").hexdigest()
    with pytest.raises(UsageError, match=f"{file} cannot be read: .* Move {tmp_path} away, and get it again"):
        read_verified(file, known)
    file.write_bytes(b"content")
    assert read_verified(file, known) == b"content"
    file.write_bytes(b"conten")
    with pytest.raises(UsageError, match=f"{file} is truncated or damaged. Move {tmp_path} away, and get it again"):
        read_verified(file, known)
