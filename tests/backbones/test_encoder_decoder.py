"""The encoder-decoder: what each token depends on, padding, and what its slots say of their layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cab import Pattern, Slot
from cab.attention.build import LayerBuilder
from cab.attention.layer import AttentionLayer
from cab.backbones.encoder import NORMS, Encoder
from cab.backbones.encoder_decoder import DecoderBlock, EncoderDecoder, greedy
from cab.backbones.positions import POSITIONS
from cab.plugins import registry

SIZES: dict[str, Any] = {"vocabulary": 11, "heads": 2, "dim": 4, "mlp": 8}
N, M = 8, 6


def attention(name: str = "softmax", pattern: str = "CC") -> LayerBuilder:
    return LayerBuilder(registry.load("mechanism", name), {}, pattern)


def encoder_decoder(pattern: Pattern, builder: Any = None, **changes: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    builder = builder or attention(pattern=pattern.value)
    encoder = Encoder(builder, Pattern.NS, **SIZES, max_len=M, layers=1)
    sizes = {**SIZES, "layers": 2, "max_len": N, "source_len": M, **changes}
    return EncoderDecoder(builder, pattern, encoder, classes=3, **sizes).double().eval()


def ids() -> tuple[Tensor, Tensor]:
    return torch.randint(1, 11, (3, N)), torch.randint(1, 11, (3, M))


def dependents(model: Callable[[Tensor], Tensor], x: Tensor, index: int) -> list[int]:
    """Return the tokens whose output depends on the token at `index`."""
    changed = x.clone()
    changed[:, index] = x[:, index] % 10 + 1
    return (model(x) - model(changed)).abs().amax((0, 2)).gt(1e-9).nonzero().flatten().tolist()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("pattern", "first"), [(Pattern.CC, 3), (Pattern.NC, 0)])
def test_a_target_depends_on_its_past_or_on_all_of_it_and_on_the_whole_source(
    pattern: Pattern, first: int, norm: str
) -> None:
    model, (x, y) = encoder_decoder(pattern, norm=norm), ids()
    assert dependents(lambda x: model(x, None, y), x, 3) == list(range(first, N))
    for index in range(M):
        assert dependents(lambda y: model(x, None, y), y, index) == list(range(N))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("pattern", [Pattern.CC, Pattern.NC])
def test_padding_is_invisible_on_both_sides(pattern: Pattern, positions: str, norm: str) -> None:
    model, (x, y) = encoder_decoder(pattern, positions=positions, norm=norm), ids()
    x_mask = torch.arange(N) < torch.tensor([8, 5, 1])[:, None]
    y_mask = torch.arange(M) < torch.tensor([2, 6, 3])[:, None]
    out = model(x, x_mask, y, y_mask)
    torch.testing.assert_close(model(x.where(x_mask, 7), x_mask, y.where(y_mask, 7), y_mask)[x_mask], out[x_mask])
    for row, (n, m) in enumerate([(8, 2), (5, 6), (1, 3)]):
        alone = model(x[row : row + 1, :n], None, y[row : row + 1, :m])
        torch.testing.assert_close(alone[0], out[row, :n])


def test_a_source_without_tokens_leaves_finite_outputs_and_gradients() -> None:
    model, (x, y) = encoder_decoder(Pattern.CC), ids()
    out = model(x, None, y, torch.zeros(3, M, dtype=torch.bool))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("pattern", "self_pattern"), [(Pattern.CC, Pattern.CS), (Pattern.NC, Pattern.NS)])
def test_slots_say_where_they_stand(pattern: Pattern, self_pattern: Pattern) -> None:
    slots: list[Slot] = []

    def record(slot: Slot) -> AttentionLayer:
        slots.append(slot)
        return attention()(slot)

    encoder_decoder(pattern, record, positions="rotary")
    sizes: dict[str, Any] = {"heads": 2, "dim": 4, "layers": 2}
    assert slots[1:] == [
        Slot(self_pattern, max_len=N, layer=0, rotary=10_000.0, **sizes),
        Slot(pattern, max_len=N, source_len=M, layer=0, **sizes),
        Slot(self_pattern, max_len=N, layer=1, rotary=10_000.0, **sizes),
        Slot(pattern, max_len=N, source_len=M, layer=1, **sizes),
    ]
    assert slots[0].pattern is Pattern.NS and slots[0].max_len == M


@pytest.mark.parametrize("pattern", ["CS", "CC", "NS", "NC"])
def test_the_mechanism_under_test_goes_into_the_slots_of_its_pattern(pattern: str) -> None:
    builder = attention("none", pattern)
    encoder_decoder(Pattern.CC if pattern[0] == "C" else Pattern.NC, builder)
    assert len(builder.built) == {"NS": 3}.get(pattern, 2)  # the encoder's layer is NS too
    assert {m.slot.pattern.value for m in builder.built} == {pattern}


def test_without_self_attention_a_token_sees_the_source_and_itself() -> None:
    x, y = ids()
    no_self, no_cross = (
        encoder_decoder(Pattern.CC, attention("none", "CS")),
        encoder_decoder(Pattern.CC, attention("none", "CC")),
    )
    assert dependents(lambda x: no_self(x, None, y), x, 3) == [3]
    assert dependents(lambda y: no_self(x, None, y), y, 3) == list(range(N))
    assert dependents(lambda x: no_cross(x, None, y), x, 3) == list(range(3, N))
    assert dependents(lambda y: no_cross(x, None, y), y, 3) == []


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pattern", [Pattern.CC, Pattern.NC])
def test_every_parameter_is_used(pattern: Pattern, norm: str) -> None:
    model, (x, y) = encoder_decoder(pattern, norm=norm), ids()
    model(x, None, y).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_inputs_reach_the_decoders_layers_alone() -> None:
    received: list[tuple[int, list[str]]] = []

    class Layer(nn.Module):
        def forward(self, x: Tensor, *rest: Any, inputs: Any) -> Tensor:
            received.append((x.shape[1], list(inputs)))
            return x

    x, y = ids()
    encoder_decoder(Pattern.CC, lambda slot: Layer())(x, None, y, None, {"segment": torch.ones(3, N)})
    assert received == [(M, [])] + 4 * [(N, ["segment"])]


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="pattern=CS: a decoder reads its source in CC or NC"):
        encoder_decoder(Pattern.CS)
    with pytest.raises(ValueError, match="encoder's width is 8, the decoder's 12"):
        encoder_decoder(Pattern.CC, width=12)
    with pytest.raises(ValueError, match="unknown norm 'before'"):
        DecoderBlock(nn.Identity(), nn.Identity(), 4, 4, dropout=0.0, norm="before")


# Decoding.


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("pattern", "name"), [("CC", "softmax"), ("CS", "linear"), ("CC", "none"), ("CS", "none")])
def test_a_stream_has_the_logits_of_the_whole_target(pattern: str, name: str, positions: str, norm: str) -> None:
    model = encoder_decoder(Pattern.CC, attention(name, pattern), positions=positions, norm=norm)
    x, y = ids()
    y_mask = torch.arange(M) < torch.tensor([2, 6, 3])[:, None]
    stream = model.stream(y, y_mask)
    assert stream.blocks.streams == (name != "none")  # which is computed anew
    out = [stream.step(x[:, :2]), *(stream.step(x[:, i : i + 1]) for i in range(2, N))]
    torch.testing.assert_close(torch.cat(out, 1), model(x, None, y, y_mask))


@pytest.mark.parametrize("name", ["softmax", "none"])
def test_greedy_takes_the_most_likely_token_until_the_end(name: str) -> None:
    model = encoder_decoder(Pattern.CC, attention(name), tied=True, vocabulary=11)
    model.head.classes = 11
    y = ids()[1]
    found = greedy(model, y, None, first=1, end=2, most=N)
    x = torch.cat([torch.ones_like(y[:, :1]), found[:, :-1]], 1)
    expected = model(x, None, y).argmax(-1)
    over = torch.cat([torch.zeros_like(found[:, :1]), (found == 2)[:, :-1]], 1).cumsum(1) > 0
    assert torch.equal(found, expected.masked_fill(over, 2))


def test_no_example_ends_before_the_least_tokens_and_all_end_at_the_most() -> None:
    model, y = encoder_decoder(Pattern.CC), ids()[1]
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    assert greedy(model, y, None, first=1, end=2, most=5).tolist() == [[2]] * 3
    assert greedy(model, y, None, first=1, end=2, most=5, least=3).tolist() == [[1, 1, 1, 2]] * 3
    assert greedy(model, y, None, first=1, end=2, most=5, least=9).tolist() == [[1] * 5] * 3


def test_tied_weights_are_one_table_and_need_one_vocabulary() -> None:
    model = encoder_decoder(Pattern.CC, tied=True)
    assert model.tokens is model.encoder.tokens and not hasattr(model.head, "weight")
    with pytest.raises(ValueError, match="vocabulary=12: tied, it is the encoder's 11"):
        encoder_decoder(Pattern.CC, tied=True, vocabulary=12)
