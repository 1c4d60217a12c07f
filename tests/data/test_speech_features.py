"""Features of recordings: frames, durations, bands, pitch and energy."""

import numpy as np
import pytest

from cab.data.speech_features import HOP, RATE, WINDOW, durations_of, features, frames_of, mel_filters


def tone(hertz: float, samples: int = RATE // 2, level: float = 8000.0) -> np.ndarray:
    """Return a voice-like tone: a sum of harmonics."""
    time = np.arange(samples) / RATE
    wave = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 6))
    return (level * wave / 2).astype(np.int16)


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, 5000])
def test_every_feature_has_a_value_a_frame(samples: int) -> None:
    mel, pitch, energy = features(tone(100, samples))
    assert len(mel) == len(pitch) == len(energy) == frames_of(samples) == 1 + samples // HOP
    assert mel.shape[1] == 80 and np.isfinite(mel).all() and mel.min() >= np.float32(np.log(1e-5))


def test_a_phoneme_has_the_frames_whose_centres_it_covers() -> None:
    samples = 10 * HOP
    # centres at 0, 256, 512, ...: the second phoneme begins at the centre of frame 2, the fourth after that of frame 5
    starts = np.array([0, 2 * HOP, 2 * HOP, 5 * HOP + 1])
    assert durations_of(starts, samples).tolist() == [2, 0, 4, 5]
    draw = np.random.default_rng(0)
    for samples in (1, 255, 256, 5000):
        starts = np.sort(draw.integers(0, samples, 7))
        assert durations_of(starts, samples).sum() == frames_of(samples)


@pytest.mark.parametrize("hertz", [80.0, 130.0, 250.0, 390.0])
def test_the_pitch_of_a_tone_is_its_frequency(hertz: float) -> None:
    _, pitch, _ = features(tone(hertz))
    inside = pitch[3:-3]
    assert np.abs(inside / hertz - 1).max() < 0.03


def test_silence_has_the_pitch_between_its_neighbours_and_no_voice_has_none() -> None:
    audio = np.concatenate([tone(100), np.zeros(RATE // 2, np.int16), tone(200)])
    _, pitch, energy = features(audio)
    silent = slice(frames_of(RATE // 2) + 4, frames_of(RATE) - 4)
    assert (np.diff(pitch[silent]) > 0).all() and 95 < pitch[silent].min() and pitch[silent].max() < 205
    assert energy[silent].max() == 0 and energy[5] > 0
    assert not features(np.zeros(5000, np.int16))[1].any()


def test_bands_are_triangles_of_equal_area_and_a_tone_is_loudest_in_its_own() -> None:
    filters = mel_filters()
    assert filters.shape == (80, WINDOW // 2 + 1) and filters.min() == 0
    area = filters.sum(1) * RATE / WINDOW
    assert np.abs(area[30:] - 1).max() < 0.02  # the low ones have few frequencies
    mel, _, _ = features((9000 * np.sin(2 * np.pi * 3000 * np.arange(RATE) / RATE)).astype(np.int16))
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)
    centre = frequencies[filters[mel[40].argmax()].argmax()]
    assert abs(centre - 3000) < 100
