"""Sums of random features: chunks with one maximum, and tokens with a maximum each, give the same."""

import pytest
import torch
from torch import Tensor

from cab.ops import random_features
from cab.ops.prefix import normalise


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [1, 6, 16])
@pytest.mark.parametrize("compiling", [False, True])
def test_both_ways_of_summing_random_features_are_the_same(
    chunk: int, compiling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, v = normal(2, 2, 37, 5), normal(2, 2, 37, 5, seed=1), normal(2, 2, 37, 3, seed=2)
    v[..., -1] = 1.0
    b[0, :, :9], v[0, :, :9] = random_features.FLOOR, 0.0  # masked, as is what follows the first chunk's first key
    b[1, :, 1:3], v[1, :, 1:3] = random_features.FLOOR, 0.0

    def results() -> list[Tensor]:
        first, state = random_features.causal_sums(a[:, :, :11], b[:, :, :11], v[:, :, :11], chunk)
        second, state = random_features.causal_sums(a[:, :, 11:], b[:, :, 11:], v[:, :, 11:], chunk, state)
        sums = state.maximum.exp().unsqueeze(-1) * state.scaled
        return [normalise(first), normalise(second), sums]

    expected = results()
    if compiling:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    else:
        monkeypatch.setattr(random_features, "_steep_chunks", lambda here, b: list(range(b.shape[2])))
    for ours, theirs in zip(results(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_mask_alone_makes_no_chunk_steep() -> None:
    b = normal(2, 2, 4, 8, 5)
    b[0, :, 0, :3], b[1, :, :2], b[0, :, 3] = random_features.FLOOR, random_features.FLOOR, random_features.FLOOR
    largest = torch.cat([torch.full((2, 2, 1, 5), random_features.FLOOR), b.amax(3)], 2).cummax(2).values
    assert random_features._steep_chunks(largest, b) == []
    b[0, :, 1, 1], b[0, :, 1, 5], b[0, :, 0] = 900.0, 1000.0, random_features.FLOOR
    largest = torch.cat([torch.full((2, 2, 1, 5), random_features.FLOOR), b.amax(3)], 2).cummax(2).values
    assert random_features._steep_chunks(largest, b) == [1]
