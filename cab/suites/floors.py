"""Floors of classification: test accuracies of simple baselines, which a model should exceed."""

from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def majority_accuracy(train: Array, test: Array) -> float:
    """Return the test accuracy of the most frequent training label. Both arguments are labels (examples,)."""
    return float((test == np.bincount(train).argmax()).mean())


def histograms(contents: Iterable[Any], size: int = 256) -> Array:
    """Count how often each integer below `size` occurs in each content: (contents, size)."""
    return np.stack([np.bincount(content, minlength=size) for content in contents])


def root_frequencies(counts: Array) -> Array:
    """Return the square roots of the relative frequencies of counts (contents, size), in the same shape."""
    roots: Array = np.sqrt(counts / counts.sum(1, keepdims=True))
    return roots


def ridge_accuracy(train: tuple[Array, Array], test: tuple[Array, Array], penalty: float = 1e-3) -> float:
    """Return the test accuracy of a ridge regression from standardised features to one-hot labels.

    Both arguments are features (examples, size) and labels (examples,). The class with the largest output is predicted.
    """
    (x, labels), (test_x, test_labels) = train, test
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation == 0] = np.inf  # a feature that is constant in training becomes 0
    x, test_x = (x - mean) / deviation, (test_x - mean) / deviation
    one_hot = np.eye(labels.max() + 1)[labels]
    intercept = one_hot.mean(0)
    weights = np.linalg.solve(x.T @ x + penalty * len(x) * np.eye(x.shape[1]), x.T @ (one_hot - intercept))
    return float(((test_x @ weights + intercept).argmax(1) == test_labels).mean())
