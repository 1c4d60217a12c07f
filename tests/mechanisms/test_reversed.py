"""Reversed attention: how much a sender gives in all."""

import pytest
import torch
from cab.mechanisms.reversed import Reversed
from torch import Tensor

from cab import Pattern, Slot

N, M, HEADS = 9, 7, 3


def sent(pattern: str) -> tuple[Tensor, Tensor]:
    """Return the weight of each sender and receiver, summed over heads (batch, n, m), and the messages (batch, m)."""
    torch.manual_seed(0)
    n = M if pattern != "NC" else N
    slot = Slot(Pattern.of(pattern), heads=HEADS, dim=4, max_len=n, source_len=M, value_dim=M, width=10)
    mechanism = Reversed(slot).double().eval()
    q, k = (torch.randn(2, HEADS, length, 4, dtype=torch.float64) for length in (n, M))
    y = torch.randn(2, M, 10, dtype=torch.float64)
    weights = mechanism(q, k, torch.eye(M, dtype=torch.float64).expand(2, HEADS, M, M), y=y)
    return weights.sum(1), mechanism.message(y).sigmoid().squeeze(2)


@pytest.mark.parametrize("pattern", ["NS", "NC"])
def test_a_sender_gives_its_message_in_all(pattern: str) -> None:
    weights, message = sent(pattern)
    torch.testing.assert_close(weights.sum(1), message)


def test_in_cs_a_sender_gives_itself_everything_and_later_receivers_a_share() -> None:
    weights, message = sent("CS")
    torch.testing.assert_close(weights.diagonal(dim1=1, dim2=2), message)
    assert not weights.triu(1).any()
    below = weights.tril(-1)
    assert (below < message.unsqueeze(1)).all() and (below.sum(1)[:, :-1] > 0).all()


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature=0"):
        Reversed(Slot(Pattern.NS, heads=HEADS, dim=4, max_len=N), temperature=0.0)
