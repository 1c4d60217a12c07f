"""LJSpeech 1.1 (Ito and Johnson, 2017, public domain) with the durations of a forced alignment.

`LJSpeech-1.1/wavs/*.wav` is the release, which is downloaded. `ljspeech_mfa` is put there: a TextGrid of the same name
for each recording, from the Montreal Forced Aligner, as in the `ljspeech_mfa.zip` that the recipes of fairseq name. Its
tier "phones" says when each phoneme begins. Splits are by chapter.
"""

import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cab.data import speech_features
from cab.data.download import atomic_folder, download, folder_lock, unpack
from cab.data.espeak import Utterance
from cab.errors import UsageError

TREE, ALIGNMENTS = "LJSpeech-1.1", "ljspeech_mfa"
RECORDINGS = 13_100
URL = "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2"
HASH = "sha256:be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5"
CHAPTERS = {"validation": ("LJ048", "LJ049"), "test": ("LJ050",)}  # the others are trained on
_ALIGN = f"put its alignments ({ALIGNMENTS}, a TextGrid a recording, as in fairseq's ljspeech_mfa.zip) there"
COMMAND = "cab data get cab_tts_fastspeech2 --corpus ljspeech"
BRING = f"{COMMAND} ({TREE}, 2.7 GB, 3.8 GB unpacked), and {_ALIGN}"
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()
_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
SILENCES = {"": "sil", "sil": "sil", "sp": "sp", "spn": "spn"}
# ARPAbet: vowels with no, primary and secondary stress
VOCABULARY = [*sorted(set(SILENCES.values())), *_CONSONANTS, *(f"{vowel}{i}" for vowel in _VOWELS for i in range(3))]
_NUMBER = {name: i for i, name in enumerate(VOCABULARY)}
_SIZE = re.compile(r"intervals: size = (\d+)")  # of a tier
_INTERVAL = re.compile(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "(.*?)"')


class Recordings:
    """The utterances of some chapters, which are read when they are asked for."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> Utterance:
        name = self.names[index]
        audio = read_audio(self.folder / TREE / "wavs" / f"{name}.wav")
        phonemes, starts = read_alignment(self.folder / ALIGNMENTS / f"{name}.TextGrid")
        starts = np.minimum(np.round(starts * speech_features.RATE).astype(np.int64), len(audio))
        return Utterance(phonemes, speech_features.durations_of(starts, len(audio)), *speech_features.features(audio))


def fetch(folder: Path) -> None:
    """Download the recordings into `folder`, unless they are there."""
    with folder_lock(folder):
        if not (folder / TREE).exists():
            archive = download(URL, HASH, folder)
            with atomic_folder(folder / TREE) as temporary:
                unpack(archive, temporary, lambda name: name.removeprefix(f"{TREE}/"))
            archive.unlink()  # 2.7 GB, which are 3.8 GB now; one that a user left beside a tree is his


def read_tree(folder: Path) -> dict[str, Recordings] | None:
    """Return the recordings of each split, or None where `folder` has neither recordings nor alignments.

    `UsageError` where one of them is missing or incomplete.
    """
    if not (folder / TREE).exists() and not (folder / ALIGNMENTS).exists():
        return None
    if not (folder / ALIGNMENTS).exists():
        raise UsageError(f"{folder / TREE} is there, and {ALIGNMENTS} is not yet: {_ALIGN}")
    if not (folder / TREE).exists():
        raise UsageError(f"{folder / ALIGNMENTS} is there, and {TREE} is not yet: {COMMAND}")
    names = {}
    for tree, pattern in ((folder / TREE / "wavs", "*.wav"), (folder / ALIGNMENTS, "*.TextGrid")):
        names[pattern] = sorted(file.stem for file in tree.glob(pattern))
        if len(names[pattern]) != RECORDINGS:
            raise UsageError(
                f"{tree} has {len(names[pattern]):,} files {pattern}, and the release {RECORDINGS:,}. Complete it, or "
                "move it away."
            )
    recorded, aligned = names.values()
    if recorded != aligned:
        name = sorted({*recorded} ^ {*aligned})[0]
        raise UsageError(f"{name} has a recording or an alignment, and not both. Complete {folder / ALIGNMENTS}.")
    chapter_split = {chapter: split for split, chapters in CHAPTERS.items() for chapter in chapters}
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name in recorded:
        splits[chapter_split.get(name.split("-")[0], "train")].append(name)
    return {split: Recordings(folder, parts) for split, parts in splits.items()}


def read_audio(file: Path) -> Any:
    """Return the samples of a recording, int16; `UsageError` where it is cut off, or of another rate or form."""
    try:
        with wave.open(str(file)) as content:
            form = content.getframerate(), content.getnchannels(), content.getsampwidth()
            samples = content.getnframes()
            data = content.readframes(samples)
    except (OSError, EOFError, wave.Error) as error:
        raise UsageError(f"{file} cannot be read: {error}. Restore the file.") from None
    if form != (speech_features.RATE, 1, 2):
        rate, channels, size = form
        raise UsageError(
            f"{file} has {rate:,} samples a second, {channels} channels and {8 * size} bits: "
            f"{speech_features.RATE:,}, 1 and 16 are needed"
        )
    if not samples:
        raise UsageError(f"{file} is empty. Restore the file.")
    if len(data) != 2 * samples:
        raise UsageError(f"{file} is cut off: it has {len(data) // 2:,} of {samples:,} samples. Restore the file.")
    return np.frombuffer(data, "<i2")


def read_alignment(file: Path) -> tuple[Any, Any]:
    """Return the numbers of the phonemes, and when each begins, in seconds, of a TextGrid's tier "phones"."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}. Restore the file.") from None
    tier = text.partition('name = "phones"')[2].partition("item [")[0]
    intervals = list(_intervals(tier, file))
    if not intervals:
        raise UsageError(f'{file} has no intervals in a tier "phones" (a TextGrid in the long form is needed)')
    size = _SIZE.search(tier)
    if size is None or int(size[1]) != len(intervals):
        raise UsageError(
            f"{file} is cut off: it has {len(intervals)} intervals of {size[1] if size else '?'}. Restore the file."
        )
    numbers, starts = zip(*intervals, strict=True)
    return np.array(numbers), np.array(starts)


def _intervals(tier: str, file: Path) -> Iterator[tuple[int, float]]:
    for start, _, name in _INTERVAL.findall(tier):
        name = SILENCES.get(name, name)
        if name not in _NUMBER:
            raise UsageError(f"{file} has the phoneme {name!r}, which is not of ARPAbet")
        yield _NUMBER[name], float(start)
