"""Floors of classification: test accuracies of rules that need no model."""

from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def majority(train: Array, test: Array) -> float:
    """Name the label that is commonest in training."""
    return float((test == np.bincount(train).argmax()).mean())


def histograms(contents: Iterable[Any], size: int = 256) -> Array:
    """Count how often each of `size` values occurs in each content: (contents, size)."""
    return np.stack([np.bincount(content, minlength=size) for content in contents])


def frequencies(counts: Array) -> Array:
    """Return square roots of relative frequencies, (contents, size)."""
    found: Array = np.sqrt(counts / counts.sum(1, keepdims=True))
    return found


def ridge(train: tuple[Array, Array], test: tuple[Array, Array], penalty: float = 1e-3) -> float:
    """Fit standardised features to labels by ridge regression, one column a class; name the largest."""
    (a, label_a), (b, label_b) = train, test
    centre, spread = a.mean(0), a.std(0)
    spread[spread == 0] = np.inf  # a feature that train cannot say anything about
    a, b = (a - centre) / spread, (b - centre) / spread
    wanted = np.eye(label_a.max() + 1)[label_a]
    mean = wanted.mean(0)
    weights = np.linalg.solve(a.T @ a + penalty * len(a) * np.eye(a.shape[1]), a.T @ (wanted - mean))
    return float(((b @ weights + mean).argmax(1) == label_b).mean())
