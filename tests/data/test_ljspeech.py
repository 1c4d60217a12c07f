"""LJSpeech: recordings, their alignments and splits, and files that are not theirs."""

import io
import shutil
import tarfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cab.data import ljspeech
from cab.data.ljspeech import VOCABULARY
from cab.errors import UsageError

NAMES = ["LJ001-0001", "LJ002-0001", "LJ048-0001", "LJ050-0001"]
GRID = """File type = "ooTextFile"
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        intervals: size = 1
        intervals [1]:
            xmin = 0.0
            xmax = 1.0
            text = "at"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        intervals: size = 3
        intervals [1]:
            xmin = 0.0
            xmax = 0.25
            text = ""
        intervals [2]:
            xmin = 0.25
            xmax = 0.5
            text = "AE1"
        intervals [3]:
            xmin = 0.5
            xmax = 1.0
            text = "{last}"
"""


def write_wave(file: Path, rate: int = 22_050, channels: int = 1, samples: int = 22_050) -> None:
    with wave.open(str(file), "wb") as out:
        out.setframerate(rate)
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.writeframes(np.ones(samples * channels, "<i2").tobytes())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release of four recordings."""
    monkeypatch.setattr(ljspeech, "RECORDINGS", 4)
    (tmp_path / ljspeech.TREE / "wavs").mkdir(parents=True)
    (tmp_path / ljspeech.ALIGNMENTS).mkdir()
    for name in NAMES:
        write_wave(tmp_path / ljspeech.TREE / "wavs" / f"{name}.wav")
        (tmp_path / ljspeech.ALIGNMENTS / f"{name}.TextGrid").write_text(GRID.format(last="T"))
    return tmp_path


def test_recordings_are_downloaded_and_alignments_asked_for(
    server: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, empty = io.BytesIO(), tmp_path_factory.mktemp("data")
    with tarfile.open(fileobj=packed, mode="w:bz2") as tar:
        tar.add(folder / ljspeech.TREE, ljspeech.TREE)
    server.content = packed.getvalue()
    monkeypatch.setattr(ljspeech, "URL", server.url)
    monkeypatch.setattr(ljspeech, "HASH", server.hash)
    for _ in range(2):  # the second time there is nothing to do
        ljspeech.fetch(empty)
    assert len(server.requests) == 1 and not (empty / "file.bin").exists()
    with pytest.raises(UsageError, match="LJSpeech-1.1 is there, and ljspeech_mfa is not yet: put its align"):
        ljspeech.read_tree(empty)
    shutil.copytree(folder / ljspeech.ALIGNMENTS, empty / ljspeech.ALIGNMENTS)
    assert ljspeech.read_tree(empty)
    shutil.rmtree(empty / ljspeech.TREE)
    with pytest.raises(UsageError, match="LJSpeech-1.1 is not yet: cab data get cab_tts_fastspeech2 --corpus ljspeech"):
        ljspeech.read_tree(empty)


def test_no_chapter_is_in_two_splits(folder: Path) -> None:
    splits = ljspeech.read_tree(folder)
    assert splits is not None
    assert {name: split.names for name, split in splits.items()} == {
        "train": NAMES[:2],
        "validation": NAMES[2:3],
        "test": NAMES[3:],
    }


def test_an_utterance_is_its_phonemes_with_the_frames_of_the_alignment(folder: Path) -> None:
    splits = ljspeech.read_tree(folder)
    assert splits is not None
    utterance = splits["train"][0]
    assert [VOCABULARY[i] for i in utterance.phonemes] == ["sil", "AE1", "T"]
    # seconds times 22,050 / 256: 21.5, 43.1 and the 87th frame, which is the last
    assert utterance.durations.tolist() == [22, 44 - 22, 87 - 44] and len(utterance.mel) == 87
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 3 + 24 + 45


def test_a_release_that_is_not_whole_is_refused_and_none_is_none(folder: Path, tmp_path: Path) -> None:
    assert ljspeech.read_tree(tmp_path / "elsewhere") is None
    grid = folder / ljspeech.ALIGNMENTS / f"{NAMES[0]}.TextGrid"
    grid.rename(grid.with_name("LJ009-0001.TextGrid"))
    with pytest.raises(UsageError, match="LJ001-0001 has a recording or an alignment, and not both"):
        ljspeech.read_tree(folder)
    grid.with_name("LJ009-0001.TextGrid").unlink()
    with pytest.raises(UsageError, match="ljspeech_mfa has 3 files .*TextGrid, and the release 4"):
        ljspeech.read_tree(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 16_000}, "has 16,000 samples a second, 1 channels and 16 bits: 22,050, 1 and 16 are needed"),
        ({"channels": 2}, "2 channels"),
        ({"samples": 0}, "is empty"),
    ],
)
def test_audio_of_another_form_is_refused(folder: Path, options: dict[str, int], message: str) -> None:
    file = folder / ljspeech.TREE / "wavs" / f"{NAMES[0]}.wav"
    write_wave(file, **options)
    with pytest.raises(UsageError, match=message):
        ljspeech.read_audio(file)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UsageError, match="cannot be read"):
        ljspeech.read_audio(file)


@pytest.mark.parametrize("size", [44 + 30_001, 44 + 30_000])
def test_half_a_recording_is_refused(folder: Path, size: int) -> None:
    file = folder / ljspeech.TREE / "wavs" / f"{NAMES[0]}.wav"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UsageError, match="is cut off: it has 15,000 of 22,050 samples. Restore the file"):
        ljspeech.read_audio(file)


def test_half_an_alignment_is_refused(folder: Path) -> None:
    file = folder / ljspeech.ALIGNMENTS / f"{NAMES[0]}.TextGrid"
    text = file.read_text()
    file.write_text(text[: text.index("        intervals [3]", text.index("phones"))])
    with pytest.raises(UsageError, match="is cut off: it has 2 intervals of 3. Restore the file"):
        ljspeech.read_alignment(file)


def test_an_alignment_without_phones_or_with_others_is_refused(folder: Path) -> None:
    file = folder / ljspeech.ALIGNMENTS / f"{NAMES[0]}.TextGrid"
    file.write_text(GRID.format(last="Ü"))
    with pytest.raises(UsageError, match="has the phoneme 'Ü', which is not of ARPAbet"):
        ljspeech.read_alignment(file)
    file.write_text(GRID.replace('"phones"', '"other"'))
    with pytest.raises(UsageError, match='no intervals in a tier "phones"'):
        ljspeech.read_alignment(file)
    file.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        ljspeech.read_alignment(file)
