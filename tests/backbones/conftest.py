"""Every test of a model draws from a generator of its own."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield
