"""ConViT's gated positional attention: where its heads look at first."""

import pytest
import torch
from cab.mechanisms.gpsa import Gpsa
from torch import Tensor

from cab import Pattern, Slot


def reached(slot: Slot, n: int, m: int) -> Tensor:
    """Return the key of the largest weight of each head and query, of position maps alone: (heads, n)."""
    torch.manual_seed(0)
    gpsa = Gpsa(slot, strength=20.0).double().eval()
    gpsa.gate.data.fill_(1000.0)
    q, k = (torch.randn(1, slot.heads, length, 4, dtype=torch.float64) for length in (n, m))
    weights = gpsa(q, k, torch.eye(m, dtype=torch.float64).expand(1, slot.heads, m, m))
    return weights[0].argmax(-1)


def test_the_heads_of_an_image_look_at_a_square_around_the_query() -> None:
    heads = reached(Slot(Pattern.NS, heads=10, dim=4, max_len=42, value_dim=42, raster=(6, 7)), 42, 42)
    query = 3 * 7 + 3
    offsets = [divmod(key - query + 3 * 7 + 3, 7) for key in heads[:9, query].tolist()]
    assert {(row - 3, column - 3) for row, column in offsets} == {(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)}


@pytest.mark.parametrize(("pattern", "offsets"), [("NS", (-1, 0, 1)), ("CS", (-2, -1, 0))])
def test_the_heads_of_a_sequence_look_around_the_query_or_back(pattern: str, offsets: tuple[int, ...]) -> None:
    heads = reached(Slot(Pattern.of(pattern), heads=3, dim=4, max_len=20, value_dim=20), 20, 20)
    assert (heads[:, 10] - 10).tolist() == list(offsets)


@pytest.mark.parametrize("n", [20, 11])
def test_a_query_stands_at_its_share_of_the_longest_source(n: int) -> None:
    heads = reached(Slot(Pattern.CC, heads=1, dim=4, max_len=20, source_len=10, value_dim=10), n, 10)
    assert heads[0].tolist() == [i // 2 for i in range(n)]
