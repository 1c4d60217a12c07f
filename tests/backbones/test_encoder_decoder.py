"""Decoders: what each token may depend on, padding, slots that say where they stand, and tokens of several ids."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cab import Pattern, Slot
from cab.attention.build import LayerBuilder
from cab.attention.layer import AttentionLayer
from cab.backbones.decoder import Decoder, Labeller
from cab.backbones.encoder import NORMS, Encoder
from cab.backbones.encoder_decoder import CrossBlock, EncoderDecoder
from cab.backbones.fields import Fields
from cab.backbones.labels import label_loss, right_and_asked
from cab.backbones.positions import POSITIONS
from cab.plugins import registry

SIZES: dict[str, Any] = {"vocabulary": 11, "heads": 2, "dim": 4, "mlp": 8}
N, M = 8, 6


@pytest.fixture(autouse=True)
def _own_random_state() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def attention(name: str = "softmax", pattern: str = "CC") -> LayerBuilder:
    return LayerBuilder(registry.load("mechanism", name), {}, pattern)


def both(pattern: Pattern, given: Any = None, **changes: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    given = given or attention(pattern=pattern.value)
    encoder = Encoder(given, Pattern.NS, **SIZES, max_len=M, layers=1)
    sizes = {**SIZES, "layers": 2, "max_len": N, "source_len": M, **changes}
    return EncoderDecoder(given, pattern, encoder, classes=3, **sizes).double().eval()


def ids() -> tuple[Tensor, Tensor]:
    return torch.randint(1, 11, (3, N)), torch.randint(1, 11, (3, M))


def moved(model: Callable[[Tensor], Tensor], x: Tensor, place: int) -> list[int]:
    """Return the tokens whose output changes with the token at `place`."""
    changed = x.clone()
    changed[:, place] = x[:, place] % 10 + 1
    return (model(x) - model(changed)).abs().amax((0, 2)).gt(1e-9).nonzero().flatten().tolist()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_a_decoders_output_depends_on_the_past_alone(norm: str, positions: str) -> None:
    model = Decoder(attention(), 3, **SIZES, max_len=N, layers=2, norm=norm, positions=positions).double().eval()
    assert moved(model, ids()[0], 3) == list(range(3, N))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("pattern", "first"), [(Pattern.CC, 3), (Pattern.NC, 0)])
def test_a_target_depends_on_its_past_or_on_all_of_it_and_on_the_whole_source(
    pattern: Pattern, first: int, norm: str
) -> None:
    model, (x, y) = both(pattern, norm=norm), ids()
    assert moved(lambda x: model(x, None, y), x, 3) == list(range(first, N))
    for place in range(M):
        assert moved(lambda y: model(x, None, y), y, place) == list(range(N))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("pattern", [Pattern.CC, Pattern.NC])
def test_padding_is_invisible_on_both_sides(pattern: Pattern, positions: str, norm: str) -> None:
    model, (x, y) = both(pattern, positions=positions, norm=norm), ids()
    x_mask = torch.arange(N) < torch.tensor([8, 5, 1])[:, None]
    y_mask = torch.arange(M) < torch.tensor([2, 6, 3])[:, None]
    out = model(x, x_mask, y, y_mask)
    torch.testing.assert_close(model(x.where(x_mask, 7), x_mask, y.where(y_mask, 7), y_mask)[x_mask], out[x_mask])
    for row, (n, m) in enumerate([(8, 2), (5, 6), (1, 3)]):
        alone = model(x[row : row + 1, :n], None, y[row : row + 1, :m])
        torch.testing.assert_close(alone[0], out[row, :n])


def test_a_source_without_tokens_leaves_finite_outputs_and_gradients() -> None:
    model, (x, y) = both(Pattern.CC), ids()
    out = model(x, None, y, torch.zeros(3, M, dtype=torch.bool))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("pattern", "own"), [(Pattern.CC, Pattern.CS), (Pattern.NC, Pattern.NS)])
def test_slots_say_where_they_stand(pattern: Pattern, own: Pattern) -> None:
    slots: list[Slot] = []

    def note(slot: Slot) -> AttentionLayer:
        slots.append(slot)
        return attention()(slot)

    both(pattern, note, positions="rotary")
    common: dict[str, Any] = {"heads": 2, "dim": 4, "layers": 2}
    assert slots[1:] == [
        Slot(own, max_len=N, layer=0, rotary=10_000.0, **common),
        Slot(pattern, max_len=N, source_len=M, layer=0, **common),
        Slot(own, max_len=N, layer=1, rotary=10_000.0, **common),
        Slot(pattern, max_len=N, source_len=M, layer=1, **common),
    ]
    assert slots[0].pattern is Pattern.NS and slots[0].max_len == M


@pytest.mark.parametrize("pattern", ["CS", "CC", "NS", "NC"])
def test_the_mechanism_under_test_goes_into_the_slots_of_its_pattern(pattern: str) -> None:
    given = attention("none", pattern)
    both(Pattern.CC if pattern[0] == "C" else Pattern.NC, given)
    assert len(given.built) == {"NS": 3}.get(pattern, 2)  # the encoder's layer is NS too
    assert {m.slot.pattern.value for m in given.built} == {pattern}


def test_without_self_attention_a_token_sees_the_source_and_itself() -> None:
    x, y = ids()
    no_self, no_cross = both(Pattern.CC, attention("none", "CS")), both(Pattern.CC, attention("none", "CC"))
    assert moved(lambda x: no_self(x, None, y), x, 3) == [3]
    assert moved(lambda y: no_self(x, None, y), y, 3) == list(range(N))
    assert moved(lambda x: no_cross(x, None, y), x, 3) == list(range(3, N))
    assert moved(lambda y: no_cross(x, None, y), y, 3) == []


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pattern", [Pattern.CC, Pattern.NC])
def test_every_parameter_is_used(pattern: Pattern, norm: str) -> None:
    model, (x, y) = both(pattern, norm=norm), ids()
    model(x, None, y).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_inputs_reach_the_decoders_layers_alone() -> None:
    seen: list[tuple[int, list[str]]] = []

    class Layer(nn.Module):
        def forward(self, x: Tensor, *rest: Any, inputs: Any) -> Tensor:
            seen.append((x.shape[1], list(inputs)))
            return x

    x, y = ids()
    both(Pattern.CC, lambda slot: Layer())(x, None, y, None, {"segment": torch.ones(3, N)})
    assert seen == [(M, [])] + 4 * [(N, ["segment"])]


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="pattern=CS: a decoder reads its source in CC or NC"):
        both(Pattern.CS)
    with pytest.raises(ValueError, match="encoder's width is 8, the decoder's 12"):
        both(Pattern.CC, width=12)
    with pytest.raises(ValueError, match="unknown norm 'before'"):
        CrossBlock(nn.Identity(), nn.Identity(), 4, 4, dropout=0.0, norm="before")
    with pytest.raises(ValueError, match="12 classes cannot be tied to 11 embeddings"):
        Decoder(attention(), 12, tied=True, **SIZES, max_len=N, layers=1)


# Labels and fields.


def test_places_are_labelled_as_they_are_among_all() -> None:
    model, (x, _) = Labeller(Encoder(attention(), Pattern.NS, **SIZES, max_len=N, layers=1), 3), ids()
    places = torch.tensor([[0, 3], [7, 7], [2, 1]])
    torch.testing.assert_close(model(x, places=places), model(x)[torch.arange(3)[:, None], places])


def test_tied_classes_are_the_last_embeddings() -> None:
    model = Decoder(attention(), 4, tied=True, **SIZES, max_len=N, layers=1)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(model.head(x), x @ model.encoder.tokens.weight[7:].T / 8**0.5)


def test_fields_are_added_up() -> None:
    fields = Fields(nn.Embedding(7, 4))
    x = torch.tensor([[[1, 2], [0, 3]]])
    weight = fields.embedding.weight
    torch.testing.assert_close(fields(x)[0], torch.stack([weight[1] + weight[2], weight[0] + weight[3]]))
    torch.testing.assert_close(fields(x[..., 0]), weight[x[..., 0]])


def test_what_is_not_labelled_is_neither_learnt_nor_scored() -> None:
    labels = torch.tensor([[0, -100, 1], [-100, 2, -100]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [0, 2, 1]]), 3).float() * 9
    assert right_and_asked(logits, labels).tolist() == [[1, 2], [1, 1]]
    assert right_and_asked(logits, labels, torch.tensor([[True, True, False]] * 2)).tolist() == [[1, 1], [1, 1]]
    picked = torch.nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(label_loss(logits, labels), picked)
