"""RWKV-4's time mixing, its layer included, against transformers' RWKV."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.attention.streaming import stream
from cab.plugins import registry

pytest.importorskip("transformers")

HEADS, VALUE, WIDTH = 3, 6, 18


@pytest.mark.parametrize("n", [2, 37, 130])
@pytest.mark.parametrize("layer", [0, 1])
def test_equals_transformers_forward_and_backward(n: int, layer: int) -> None:
    from transformers import RwkvConfig
    from transformers.models.rwkv.modeling_rwkv import RwkvModel

    torch.manual_seed(0)
    config = RwkvConfig(vocab_size=5, hidden_size=WIDTH, num_hidden_layers=2, context_length=n)
    theirs: Any = RwkvModel(config).blocks[layer].attention
    slot = Slot(Pattern.CS, HEADS, VALUE, n, width=WIDTH, layer=layer, layers=2)
    ours: Any = registry.load("mechanism", "rwkv4")(slot, chunk=16)
    mixes = theirs.time_mix_receptance, theirs.time_mix_key, theirs.time_mix_value
    for mine, other in zip([*ours.mix, ours.log_rate], [*mixes, theirs.time_decay], strict=True):
        torch.testing.assert_close(mine.flatten(), other.flatten())  # they begin alike
    with torch.no_grad():
        ours.bonus.copy_(theirs.time_first.normal_().view_as(ours.bonus))
    projections = theirs.receptance, theirs.key, theirs.value
    for mine, other in zip(ours.projections, projections, strict=True):
        mine.load_state_dict({"weight": other.weight})
    y = torch.randn(2, n, WIDTH, requires_grad=True)
    call = {"y": y, "key_mask": torch.ones(2, n, dtype=torch.bool)}

    def whole_layer(out: torch.Tensor) -> torch.Tensor:
        return theirs.output(out.transpose(1, 2).flatten(2))

    out, expected = whole_layer(ours(**call)), theirs(y)[0]
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(whole_layer(stream(ours, call, n // 2)), expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn(out.shape)
    mine = torch.autograd.grad((out * weight).sum(), [y, ours.log_rate, ours.bonus])
    others = torch.autograd.grad((expected * weight).sum(), [y, theirs.time_decay, theirs.time_first])
    for gradient, other in zip(mine, others, strict=True):
        torch.testing.assert_close(gradient, other.view(gradient.shape), rtol=1e-3, atol=1e-4)
