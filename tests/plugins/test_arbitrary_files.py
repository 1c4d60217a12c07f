"""Whatever a user's file holds, its card is read or the message names the file; reading it runs nothing.

The first `@example` once ended in a traceback.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cab.errors import UsageError
from cab.plugins import registry

SOUND = b'''import cab


class Mine(cab.Mechanism):
    """Mine."""

    patterns = {"NS": "native"}

    def __init__(self, chunk: int = 8) -> None:
        super().__init__()

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return v
'''
PIECES = st.sampled_from(
    [b"", b"(", b"'", b"\x00", b"\xff", b"\n", b"\t", b"1", b"None", b"{}", b"*", b"x" * 9, b"lambda: 0"]
)


def edited(at: int, removed: int, added: bytes) -> bytes:
    return SOUND[:at] + added + SOUND[at + removed :]


@settings(max_examples=150, deadline=None)
@given(st.builds(edited, st.integers(0, len(SOUND)), st.integers(0, 30), PIECES) | st.binary(max_size=40))
@example(b"x = " + b"-" * 50_000 + b"1")
@example(SOUND.replace(b'{"NS": "native"}', b"[]"))
@example(SOUND.replace(b'{"NS": "native"}', b"{[]: 1}"))
def test_any_file_has_a_card_or_is_named(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "mine.py"
        file.write_bytes(content)
        for name in (str(file), f"{file}:Mine"):
            try:
                assert registry.card("mechanism", name).class_name
            except UsageError as error:
                assert "mine.py" in str(error)


def test_a_card_is_read_without_importing_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_bytes(SOUND.replace(b"import cab", b"import cab\nraise SystemExit(3)"))
    assert registry.card("mechanism", str(tmp_path / "mine.py")).class_name == "Mine"
