"""What text to speech predicts of a recording: log-mel spectrogram, pitch and energy, a value a frame.

Frame t is centred at sample 256 t of 22,050 a second: 11.6 ms a frame. Sizes are those of the recipes that CAB trains
by (fairseq's for LJSpeech): FFT and window of 1,024 samples, 80 bands from 20 to 8,000 Hz, logarithms of at least 1e-5.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

RATE = 22_050
HOP, WINDOW, BANDS = 256, 1024, 80
LOWEST, HIGHEST = 20.0, 8000.0  # Hz, of the bands
FLOOR = 1e-5
PITCHES = (60.0, 400.0)  # Hz
NEARLY = 0.9  # as high as the highest peak
VOICED = 0.5  # autocorrelation, relative to that at lag 0, above which a frame has a pitch


def frames_of(samples: int) -> int:
    """Return how many frames a recording has."""
    return 1 + samples // HOP


def durations_of(starts: NDArray[Any], samples: int) -> NDArray[np.int64]:
    """Return the frames of each phoneme, given its first sample: those whose centres it covers. They sum to all.

    `starts` (phonemes,) do not fall. The first phoneme begins with the recording, and the last one ends it.
    """
    bounds = np.concatenate([[0], starts[1:], [samples + 1]])
    return np.diff(-(-bounds // HOP)).astype(np.int64)


def features(audio: NDArray[np.int16]) -> tuple[Floats, Floats, Floats]:
    """Return the log-mel spectrogram (frames, 80), the pitch in Hz and the energy, both (frames,), of samples.

    A frame without voice has the pitch between its neighbours with voice; without any, all have 0.
    """
    windows = _windows(audio.astype(np.float32) / 2**15)
    magnitudes = np.abs(np.fft.rfft(windows * _hann()))
    mel = np.log(np.maximum(magnitudes @ mel_filters().T, FLOOR))
    return mel.astype(np.float32), pitch_of(windows), np.linalg.norm(magnitudes, axis=1).astype(np.float32)


def pitch_of(windows: Floats) -> Floats:
    """Return the pitch (frames,) of samples (frames, window), by their normalised autocorrelation.

    It is that of the shortest lag at which there is a peak nearly as high as the highest: multiples of the period have
    peaks too.
    """
    centred = windows - windows.mean(1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * WINDOW)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, :WINDOW]
    overlap = 1 - np.arange(WINDOW) / WINDOW  # that of a window with itself, moved by the lag
    shortest, longest = int(RATE / PITCHES[1]), int(RATE / PITCHES[0])
    around = (correlation / overlap)[:, shortest - 1 : longest + 2]
    candidates = around[:, 1:-1]
    height = candidates.max(1)
    peak = (candidates >= around[:, :-2]) & (candidates >= around[:, 2:])
    best = (peak & (candidates >= NEARLY * height[:, None])).argmax(1)
    voiced = height > VOICED * np.maximum(correlation[:, 0], 1e-6)
    if not voiced.any():
        return np.zeros(len(windows), np.float32)
    numbers = np.arange(len(windows))
    pitch: Floats = np.interp(numbers, numbers[voiced], RATE / (shortest + best[voiced])).astype(np.float32)
    return pitch


def mel_filters() -> Floats:
    """Return the weights (80, 513) of the bands: triangles of equal area on Slaney's mel scale (Auditory Toolbox)."""
    edges = _hertz(np.linspace(_mel(LOWEST), _mel(HIGHEST), BANDS + 2))
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)
    below, centre, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((frequencies - below) / (centre - below), (above - frequencies) / (above - centre))
    weights: Floats = np.maximum(triangles, 0.0) * 2 / (above - below)
    return weights


def _mel(hertz: float) -> float:
    """Slaney's scale: linear below 1,000 Hz, 15 mel, and logarithmic above, 27 mel for a factor of 6.4."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * float(np.log(hertz / 1000) / np.log(6.4))


def _hertz(mel: Floats) -> Floats:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def _hann() -> Floats:
    return np.hanning(WINDOW + 1)[:-1]


def _windows(audio: Floats) -> Floats:
    """Return the samples around each frame's centre, (frames, window); beyond its ends the recording is mirrored."""
    padded = np.pad(audio, WINDOW // 2, mode="reflect") if len(audio) > WINDOW // 2 else np.pad(audio, WINDOW // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
