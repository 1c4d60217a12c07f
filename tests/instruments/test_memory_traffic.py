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


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_of_slices_of_one_argument_the_union_counts(device: str) -> None:
    a = torch.empty(6, 40, 64, device=device)
    item, whole = 4, 4 * 6 * 40 * 64
    halves = count_traffic(lambda: a[..., :32] + a[..., 32:])
    assert halves[0] == whole + whole // 2
    assert count_traffic(lambda: a[..., :32] * a[..., 16:48])[0] == whole * 3 // 4 + whole // 2  # they overlap
    assert count_traffic(lambda: a[:, ::2].exp())[0] == whole  # half of it is read, and as much is written
    assert count_traffic(lambda: (a[:, ::2].exp(), a[:, 1::2].exp()))[0] == 2 * whole
    assert count_traffic(lambda: (a.exp(), a[0].exp()))[0] == whole + whole + 40 * 64 * item
    assert count_traffic(lambda: a.unfold(1, 3, 1).exp())[0] == whole + 6 * 38 * 64 * 3 * item


def test_a_mechanism_that_halves_its_heads_needs_at_least_its_inputs_and_its_output() -> None:
    q, k, v = (torch.empty(2, 4, 256, 64, device="meta") for _ in range(3))

    def difference() -> torch.Tensor:
        first, second = ((q[..., i : i + 32] @ k[..., i : i + 32].mT).softmax(-1) for i in (0, 32))
        return (first - second) @ v

    assert count_traffic(difference)[0] == 4 * q.numel() * q.element_size()
