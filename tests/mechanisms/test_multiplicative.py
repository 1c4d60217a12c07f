"""The multiplicative adapter: a token is scaled by what it reads."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot, Unsupported
from cab.plugins import registry

HEADS, DIM, N, M = 2, 4, 5, 7


def built(pattern: str) -> Any:
    torch.manual_seed(0)
    return registry.load("mechanism", "multiplicative")(
        Slot(Pattern.of(pattern), HEADS, DIM, N, source_len=M if pattern == "NC" else None)
    )


@torch.no_grad()
def test_an_entry_of_a_token_scales_the_same_entry_of_its_row_alone() -> None:
    mechanism = built("NC")
    q, k, v = (torch.randn(1, HEADS, length, DIM) for length in (N, M, M))
    x = torch.randn(1, N, HEADS * DIM)
    out = mechanism(q, k, v, x=x).transpose(1, 2).flatten(2)
    scaled = x.clone()
    scaled[:, 2, 5] *= 3.0
    expected = out.clone()
    expected[:, 2, 5] *= 3.0
    torch.testing.assert_close(mechanism(q, k, v, x=scaled).transpose(1, 2).flatten(2), expected)
    assert mechanism.of_token is None


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_a_sequence_that_would_read_itself_is_refused(pattern: str) -> None:
    with pytest.raises(Unsupported, match="another sequence"):
        built(pattern)
