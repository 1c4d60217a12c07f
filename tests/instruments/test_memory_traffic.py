"""Counted bytes of operations whose number is known."""

import pytest
import torch

from cab.instruments.memory_traffic import count_traffic


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bytes_are_those_of_each_operation_and_of_what_goes_in_and_comes_out(device: str) -> None:
    a, b = torch.empty(30, 40, device=device), torch.empty(40, 50, device=device)
    read, product = 4 * (30 * 40 + 40 * 50), 4 * 30 * 50
    assert count_traffic(lambda: a @ b) == (read + product, read + product)
    assert count_traffic(lambda: (a @ b).exp()) == (read + product, read + 3 * product)
    assert count_traffic(lambda: (a @ b).t().reshape(5, 300)) == (read + product, read + 3 * product)  # copies
    assert count_traffic(lambda: a.t()[:20]) == (4 * 30 * 20, 0)  # a view moves nothing
    assert count_traffic(lambda: a.neg_()) == (2 * 4 * 30 * 40, 2 * 4 * 30 * 40)
    assert count_traffic(lambda: a + a[:1].expand(30, 40)) == (2 * 4 * 30 * 40, 2 * 4 * 30 * 40 + 4 * 40)
    assert count_traffic(lambda: torch.empty_like(a) is None) == (0, 0)
