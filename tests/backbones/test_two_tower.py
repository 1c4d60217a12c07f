"""Two towers: each sequence is read alone by the same encoder, and the head sees both vectors."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern
from cab.attention.layer import AttentionLayer
from cab.backbones.encoder import POOLINGS, Encoder, pooled
from cab.backbones.two_tower import TwoTower
from cab.plugins import registry

SIZES: dict[str, Any] = {"vocabulary": 11, "max_len": 9, "heads": 2, "dim": 4, "layers": 2, "mlp": 8}


def attention(name: str) -> Any:
    mechanism = registry.load("mechanism", name)
    return lambda slot: AttentionLayer(mechanism(slot))


def sequences() -> tuple[Tensor, Tensor]:
    ids = torch.randint(1, 11, (3, 8))
    mask = torch.arange(8) < torch.tensor([8, 5, 2])[:, None]
    return ids, mask


def towers(pooling: str = "mean", **changes: Any) -> TwoTower:
    torch.manual_seed(0)
    encoder = Encoder(attention("softmax"), Pattern.NS, **SIZES, cls=pooling == "cls")
    return TwoTower(encoder, classes=3, hidden=5, pooling=pooling, **changes).double().eval()


@pytest.mark.parametrize("interaction", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_tower_sees_its_own_sequence_alone(pooling: str, interaction: bool) -> None:
    model = towers(pooling, interaction=interaction)
    (x, x_mask), (y, y_mask) = sequences(), sequences()
    vectors = [pooled(*model.encoder(ids, mask), pooling) for ids, mask in ((x, x_mask), (y, y_mask))]
    a, b = vectors
    features = torch.cat([a, b, a * b, a - b] if interaction else [a, b], -1)
    torch.testing.assert_close(model(x, x_mask, y, y_mask), model.head(features))
    torch.testing.assert_close(model(x, None, y, None)[0], model(x[:1], None, y[:1], None)[0])


def test_both_towers_are_one_encoder_and_padding_is_invisible_unless_pooled() -> None:
    model = towers()
    (x, x_mask), (y, y_mask) = sequences(), sequences()
    out = model(x, x_mask, y, y_mask)
    torch.testing.assert_close(model(x.where(x_mask, 7), x_mask, y.where(y_mask, 3), y_mask), out)
    swapped = model(y, y_mask, x, x_mask)
    assert not torch.allclose(swapped, out) and len(list(model.encoder.blocks)) == 2
    quirk = towers(pools_padding=True)
    assert not torch.allclose(quirk(x, x_mask, y, y_mask), out)


def test_a_tower_s_pooling_goes_with_its_encoder() -> None:
    with pytest.raises(ValueError, match="cls with a class token alone"):
        TwoTower(Encoder(attention("softmax"), Pattern.NS, **SIZES), classes=2, hidden=4, pooling="cls")
