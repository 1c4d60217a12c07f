"""The encoder: padding is invisible, only attention mixes positions, and slots say which layer they are of."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cab import Pattern, Slot
from cab.attention.layer import AttentionLayer
from cab.backbones.encoder import NORMS, POOLINGS, Classifier, Encoder, pooled
from cab.backbones.positions import POSITIONS
from cab.plugins import registry

SIZES: dict[str, Any] = {"vocabulary": 11, "max_len": 9, "heads": 2, "dim": 4, "layers": 2, "mlp": 8}


def attention(name: str) -> Any:
    mechanism = registry.load("mechanism", name)
    return lambda slot: AttentionLayer(mechanism(slot))


def classifier(name: str = "softmax", pooling: str = "mean", **changes: Any) -> Classifier:
    torch.manual_seed(0)
    encoder = Encoder(attention(name), Pattern.NS, **{**SIZES, **changes}, cls=pooling == "cls")
    return Classifier(encoder, classes=3, hidden=5, pooling=pooling).double().eval()


def sequences() -> tuple[Tensor, Tensor]:
    ids = torch.randint(1, 11, (3, 8))
    mask = torch.arange(8) < torch.tensor([8, 5, 2])[:, None]
    return ids, mask


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_is_invisible(norm: str, positions: str, pooling: str) -> None:
    model = classifier(norm=norm, positions=positions, pooling=pooling)
    ids, mask = sequences()
    out = model(ids, mask)
    torch.testing.assert_close(model(ids.where(mask, 7), mask), out)
    for row, length in enumerate([8, 5, 2]):
        torch.testing.assert_close(model(ids[row : row + 1, :length]), out[row : row + 1])
    assert not torch.allclose(model(ids), out)  # the mask does something


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_sequence_without_tokens_has_a_finite_output_and_gradient(pooling: str) -> None:
    model = classifier(pooling=pooling)
    ids, mask = sequences()
    mask[1] = False
    out = model(ids, mask)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_only_attention_mixes_positions() -> None:
    for name, mixes in (("none", False), ("softmax", True)):
        encoder = classifier(name).encoder
        ids, _ = sequences()
        changed = ids.clone()
        changed[:, 3] = ids[:, 3] % 10 + 1
        differs = (encoder(ids)[0] - encoder(changed)[0]).abs().amax(-1) > 1e-9
        assert differs[:, 3].all()
        assert differs.all() if mixes else differs.sum() == len(ids)


@pytest.mark.parametrize("positions", POSITIONS)
def test_order_counts_where_there_are_positions(positions: str) -> None:
    model = classifier(positions=positions)
    with torch.no_grad():  # learned ones begin small
        for p in model.encoder.positions.parameters():
            p.mul_(50)
    ids, _ = sequences()
    same = torch.allclose(model(ids), model(ids.flip(1)), atol=1e-9)
    assert same == (positions == "none")


def test_slots_say_where_they_stand() -> None:
    slots: list[Slot] = []

    def record(slot: Slot) -> nn.Module:
        slots.append(slot)
        return attention("none")(slot)

    Encoder(record, Pattern.CS, **{**SIZES, "layers": 3, "width": 6}, positions="rotary")
    assert [slot.layer for slot in slots] == [0, 1, 2]
    expected = Slot(Pattern.CS, heads=2, dim=4, max_len=9, width=6, layer=1, layers=3, rotary=10_000.0)
    assert slots[1] == expected
    Encoder(record, Pattern.NS, **SIZES)
    assert slots[-1].rotary is None and slots[-1].width == 8


def test_a_width_of_its_own_goes_through_the_model() -> None:
    model = classifier(width=6, pooling="cls")
    assert model.encoder(sequences()[0])[0].shape == (3, 9, 6)
    assert model(sequences()[0]).shape == (3, 3)


def test_the_class_token_comes_first_and_is_real() -> None:
    encoder = classifier(pooling="cls").encoder
    ids, mask = sequences()
    x, extended = encoder(ids, mask)
    assert x.shape[1] == 9 and extended is not None
    assert extended[:, 0].all() and torch.equal(extended[:, 1:], mask)
    assert encoder(ids)[1] is None


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_is_used(pooling: str, norm: str) -> None:
    model = classifier(pooling=pooling, norm=norm)
    # 8 tokens and the class token: every learned position
    model(torch.randint(1, 11, (4, 8 if pooling == "cls" else 9))).square().sum().backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert unused == set()


def test_inputs_reach_the_mechanism() -> None:
    received: list[Any] = []

    class Layer(nn.Module):
        def forward(self, x: Tensor, mask: Any, inputs: Any) -> Tensor:
            received.append(inputs)
            return x

    encoder = Encoder(lambda slot: Layer(), Pattern.NS, **SIZES)
    encoder(sequences()[0], None, {"segment": torch.ones(3, 8)})
    assert [set(inputs) for inputs in received] == [{"segment"}] * 2


def test_pooling_reads_the_real_tokens_alone() -> None:
    x = torch.tensor([[[2.0], [4.0], [90.0]], [[-2.0], [-5.0], [0.0]], [[1.0], [1.0], [1.0]]])
    mask = torch.tensor([[True, True, False], [True, True, False], [False, False, False]])
    for pooling, of_real, of_all in (
        ("mean", [3.0, -3.5, 0.0], [32.0, -7 / 3, 1.0]),
        ("max", [4.0, -2.0, 0.0], [90.0, 0.0, 1.0]),
    ):
        assert pooled(x, mask, pooling).flatten().tolist() == of_real
        torch.testing.assert_close(pooled(x, None, pooling).flatten(), torch.tensor(of_all))
    assert pooled(x, mask, "cls").flatten().tolist() == [2.0, -2.0, 1.0]


def test_pooling_and_the_class_token_go_together() -> None:
    for pooling, cls in (("mean", True), ("cls", False), ("first", False)):
        with pytest.raises(ValueError, match="cls with a class token alone"):
            Classifier(Encoder(attention("none"), Pattern.NS, **SIZES, cls=cls), classes=2, hidden=2, pooling=pooling)


def test_norms_stand_where_their_names_say() -> None:
    ids, _ = sequences()
    for norm in NORMS:
        x = classifier(norm=norm).encoder(ids)[0]
        torch.testing.assert_close(x.mean(-1), torch.zeros_like(x[..., 0]), atol=1e-6, rtol=0)  # the last thing done
        block = classifier(norm=norm).encoder.blocks[0](100 * torch.randn(1, 4, 8).double(), None, {})
        assert (block.std(-1) > 10).all() if norm == "pre" else (block.std(-1) < 2).all()


def test_wrong_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown norm 'prenorm'.*Accepted: post, pre"):
        classifier(norm="prenorm")
