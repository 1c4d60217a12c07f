"""Distances of speech that no vocoder is needed for: mel cepstral and mel spectral distortion, aligned in time.

Both are the mean over the frames of what is synthesised of the distance along the best alignment with a recording
(Sakoe and Chiba, 1978). Two frames are as far apart as the root of the mean square of their differences: of 13 mel
frequency cepstral coefficients for MCD, of the log-mel spectrogram for MSD. These are the formulas by which CAB scores
(fairseq's text to speech), with which it computes both spectrograms anew, from waveforms that a vocoder made.
"""

from math import pi
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

COEFFICIENTS = 13

# mypy: disable-error-code="untyped-decorator"


def distortions(synthesised: NDArray[Any], recorded: NDArray[Any]) -> dict[str, tuple[float, int]]:
    """Return, of log-mel spectrograms (frames, bands), the sums of MCD and MSD over their paths, and their frames.

    `mcd_recorded` is MCD a frame of the recording. By CAB's formulas speech that never ends is the better for it: its
    frames beyond the recording's are divided by too.
    """
    cepstral = path_distance(*(cepstrum(each) for each in (synthesised, recorded)))
    return {
        "mcd": (cepstral, len(synthesised)),
        "msd": (path_distance(synthesised, recorded), len(synthesised)),
        "mcd_recorded": (cepstral, len(recorded)),
    }


def cepstrum(mel: NDArray[Any]) -> NDArray[Any]:
    """Return the first 13 coefficients of the orthonormal cosine transform of log-mel spectrograms (frames, bands)."""
    bands = mel.shape[1]
    phase = pi / bands * (np.arange(bands) + 0.5)
    transform = np.cos(phase[:, None] * np.arange(COEFFICIENTS)) * (2 / bands) ** 0.5
    transform[:, 0] *= 0.5**0.5
    return mel @ transform  # type: ignore[no-any-return]


def path_distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the least sum of distances of the frames of a (n, channels) and b (m, channels) along a path.

    A path leads from the first frames to the last, and each step goes on by one frame in a, in b or in both.
    """
    rows, columns = (np.ascontiguousarray(each, dtype=np.float64) for each in (a, b))
    return float(_path_distance(rows, columns))


@njit(cache=True, nogil=True)
def _path_distance(a: Any, b: Any) -> Any:
    n, m = len(a), len(b)
    before = np.full(m + 1, np.inf)  # sums of the best paths to the frames of b, from the row above
    before[0] = 0.0
    for i in range(n):
        here = np.full(m + 1, np.inf)
        for j in range(m):
            squares = 0.0
            for channel in range(a.shape[1]):
                difference = a[i, channel] - b[j, channel]
                squares += difference * difference
            shortest = min(before[j], before[j + 1], here[j])
            here[j + 1] = shortest + (squares / a.shape[1]) ** 0.5
        before = here
    return before[m]
