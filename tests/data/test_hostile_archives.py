"""No archive writes outside the folder that it is unpacked into, whatever its members are called and link to."""

import io
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cab.data.download import unpack
from cab.errors import UsageError

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
