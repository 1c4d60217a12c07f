"""No archive writes outside the folder that it is unpacked into, or more than it may, whatever its members claim.

An `@example` is an archive that once did, or that other programs have fallen for.
"""

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cab.data import debian, fashion_mnist
from cab.data.download import gunzip, unpack
from cab.errors import UsageError

MOST = 100_000  # bytes that the archives here may take
PARTS = st.sampled_from(["..", ".", "", "/", "a", "b", "to", "outside", "~", "a\n", "é"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NAMES, KINDS, NAMES), min_size=1, max_size=4))
@example([("../outside", tarfile.REGTYPE, "")])
@example([("/outside", tarfile.REGTYPE, "")])
@example([("a", tarfile.SYMTYPE, ".."), ("a/outside", tarfile.REGTYPE, "")])
@example([("a", tarfile.LNKTYPE, "../outside"), ("a", tarfile.REGTYPE, "")])
def test_nothing_is_written_outside_the_folder(members: list[tuple[str, bytes, str]]) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"evil"))
    with TemporaryDirectory() as parent:
        (Path(parent) / "outside").write_text("mine")
        archive, folder = Path(parent) / "file.tar", Path(parent) / "to"
        archive.write_bytes(packed.getvalue())
        folder.mkdir()
        try:
            unpack(archive, folder, lambda name: name)
        except UsageError as error:
            assert str(archive) in str(error)
        assert sorted(path.name for path in Path(parent).iterdir()) == ["file.tar", "outside", "to"]
        assert (Path(parent) / "outside").read_text() == "mine"
        assert not any(path.is_symlink() or path.is_fifo() for path in folder.rglob("*"))


SIZES = st.integers(0, 3 * MOST)


def taken(folder: Path) -> int:
    """Return the bytes of a folder's files, and a block for each of them at least, as a disk counts."""
    return sum(max(path.stat().st_size, 4096) for path in folder.rglob("*") if path.is_file())


@settings(max_examples=60, deadline=None)
@given(st.lists(SIZES, max_size=6), st.booleans())
@example([3 * MOST], False)
@example([0] * 100, False)
@example([0] * 100, True)
def test_no_archive_takes_more_than_it_may(sizes: list[int], left_out: bool) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(str(number))
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    with TemporaryDirectory() as parent:
        archive, folder = Path(parent) / "file.tar.gz", Path(parent) / "to"
        archive.write_bytes(packed.getvalue())
        folder.mkdir()
        fits = sum(max(size, 4096) for size in sizes) <= MOST
        if fits:
            unpack(archive, folder, lambda name: None if left_out else name, MOST)
        else:
            with pytest.raises(UsageError, match=f"{archive} holds more than"):
                unpack(archive, folder, lambda name: None if left_out else name, MOST)
        assert taken(folder) <= MOST
        assert len(list(folder.iterdir())) == (0 if left_out else len(sizes)) or not fits


def test_a_sparse_member_counts_with_what_it_becomes(tmp_path: Path) -> None:
    """A terabyte of holes in an archive of two blocks, as GNU tar writes it."""
    member = tarfile.TarInfo("hole")
    member.size = 0
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = b"%011o\0" % 0o77777777777  # the real size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "sparse.tar").write_bytes(bytes(header) + bytes(1024))
    (tmp_path / "to").mkdir()
    with pytest.raises(UsageError, match="holds more than"):
        unpack(tmp_path / "sparse.tar", tmp_path / "to", lambda name: name, MOST)
    assert taken(tmp_path / "to") == 0


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200)
    | st.tuples(SIZES, st.integers(1, 3)).map(lambda each: gzip.compress(bytes(each[0])) * each[1])
)
@example(gzip.compress(bytes(MOST)))
@example(gzip.compress(bytes(MOST + 1)))
@example(gzip.compress(bytes(MOST)) + gzip.compress(b"1"))
@example(gzip.compress(b"1234")[:-2])
@example(b"")
def test_no_gzip_file_becomes_larger_than_it_may(content: bytes) -> None:
    try:
        assert len(gunzip(content, MOST)) <= MOST
    except ValueError as error:
        assert "holds more than" in str(error) or "no gzip file" in str(error)


def test_a_bomb_in_the_data_folder_is_a_damaged_file(tmp_path: Path) -> None:
    for name in fashion_mnist.FILES:
        (tmp_path / name).write_bytes(gzip.compress(bytes(fashion_mnist.MOST_BYTES + 1), 1))
    with pytest.raises(UsageError, match="truncated or damaged"):
        fashion_mnist.read(tmp_path, "test")


def test_a_package_writes_the_files_that_are_known_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def packages(names: Sequence[str]) -> Iterator[dict[str, tuple[str, Path]]]:
        yield {fashion_mnist.PACKAGE: ("1", Path("x.deb"))}

    monkeypatch.setattr(debian, "packages", packages)
    monkeypatch.setattr(debian, "files", lambda package, folder: [("../../outside", b"evil"), ("/outside", b"evil")])
    with pytest.raises(UsageError, match="cannot be read"):
        fashion_mnist.fetch(tmp_path / "data")
    assert not list(tmp_path.rglob("*outside*")) and not Path("/outside").exists()
