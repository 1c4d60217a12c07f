"""A prefix is read in pieces before tokens are decoded one by one."""

from typing import Any

import pytest
import torch
from cab.mechanisms.softmax import Softmax

from cab import Pattern, Slot
from cab.attention.streaming import TokenDecoder


def test_a_decoder_reads_what_came_before_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    mechanism = Softmax(Slot(Pattern.CS, heads=1, dim=4, max_len=701)).eval()
    arguments = {
        name: torch.randn(1, 1, 701, 4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("qkv")
    }
    step = type(mechanism).step

    def noted(self: Any, state: Any, q: Any, *rest: Any, **named: Any) -> Any:
        sizes.append(q.shape[2])
        return step(self, state, q, *rest, **named)

    monkeypatch.setattr(type(mechanism), "step", noted)
    with torch.no_grad():
        last = TokenDecoder(mechanism, arguments, 700).run()
    assert sizes == [256, 256, 188, 1, 1]
    torch.testing.assert_close(last, mechanism(**arguments)[:, :, -1:])
