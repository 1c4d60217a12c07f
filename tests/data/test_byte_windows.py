"""Windows of bytes: where they begin and end, in memory and in files."""

from pathlib import Path

import pytest

from cab.data.byte_windows import ByteWindows


def test_windows_follow_one_another_within_a_document_and_leave_its_rest_out(tmp_path: Path) -> None:
    documents = [b"abcdefgh", b"xy", b"", b"123456"]
    expected = [b"abc", b"def", b"123", b"456"]
    windows = ByteWindows(documents, 3)
    assert [windows[i].tobytes() for i in range(len(windows))] == expected
    files = [tmp_path / str(i) for i in range(4)]
    for file, document in zip(files, documents, strict=True):
        file.write_bytes(document)
    read = ByteWindows(files, 3)
    assert [read[i].tobytes() for i in reversed(range(len(read)))] == expected[::-1]


def test_a_window_that_is_not_there_is_an_error() -> None:
    for windows in (ByteWindows([b"abcdef"], 3), ByteWindows([], 3)):
        for index in (len(windows), -1):
            with pytest.raises(IndexError, match=f"window {index} of {len(windows)}"):
                windows[index]
