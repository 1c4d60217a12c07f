"""CIFAR-10: the conversion to grey. Its files are tested through the task, in tests/tasks/test_lra_image.py."""

import numpy as np

from cab.data import cifar10

COLOURS = np.random.default_rng(0).integers(0, 256, (120, 3, 1024), dtype=np.uint8)


def test_grey_is_what_tensorflow_makes() -> None:
    # tf.image.rgb_to_grayscale: weighted in float32 from 0 to 1, times 255.5, truncated
    weights = np.array([0.2989, 0.587, 0.114], np.float32)
    tensorflow = (COLOURS.astype(np.float32).transpose(0, 2, 1) / 255 @ weights * np.float32(255.5)).astype(np.uint8)
    ours = cifar10.grey(COLOURS)
    assert (abs(ours.astype(int) - tensorflow) <= 1).all() and (ours != tensorflow).mean() < 1e-3
    assert cifar10.grey(np.full((1, 3, 1), 255, np.uint8)).item() == 255
    assert cifar10.grey(np.array([[[255], [0], [0]]], np.uint8)).item() == 76
