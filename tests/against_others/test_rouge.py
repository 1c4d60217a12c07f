"""ROUGE equals that of torchmetrics, text by text."""

import random

import pytest

from cab.backbones.rouge import rouge

peers = pytest.importorskip("torchmetrics.functional.text")


def test_it_equals_torchmetrics_by_named_keys() -> None:
    draw = random.Random(0)
    vocabulary = ["x", "y", "n_jobs", "Axis", "random-state", "copy2", "é", ":", "the"]
    for _ in range(200):
        ours, theirs = (" ".join(draw.choices(vocabulary, k=draw.randrange(9))) for _ in range(2))
        found = rouge(ours, theirs)
        expected = peers.rouge_score(ours, theirs, rouge_keys=tuple(found))
        for name, value in found.items():
            assert value == pytest.approx(expected[f"{name}_fmeasure"].item(), abs=1e-6), (ours, theirs, name)
