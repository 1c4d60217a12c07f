"""The gate of a modality: closed at first, and open for everything else."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry

HEADS, DIM, N, WIDTH = 2, 4, 9, 12


@pytest.mark.parametrize("pattern", Pattern.__members__)
def test_a_new_gate_keeps_a_modalitys_values_out_and_its_keys_in(pattern: str) -> None:
    generator = torch.Generator().manual_seed(0)
    slot = Slot(Pattern.of(pattern), HEADS, DIM, N, width=WIDTH)
    gated: Any = registry.load("mechanism", "modality_gate")(slot)
    softmax: Any = registry.load("mechanism", "softmax")(slot)
    q, k, v = torch.randn(3, 1, HEADS, N, DIM, generator=generator)
    y, modality = torch.randn(1, N, WIDTH, generator=generator), torch.tensor([[0, 1, 2, 1, 1, 0, 2, 2, 1]])
    out = gated(q, k, v, y=y, source_modality=modality)
    torch.testing.assert_close(out, softmax(q, k, v * (modality != 1)[:, None, :, None]))
    out = gated(q, k, v, y=y, source_modality=torch.full_like(modality, 2))
    torch.testing.assert_close(out, softmax(q, k, v))
