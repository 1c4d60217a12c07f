"""Logits at every token: what a causal decoder's depend on, those of chosen tokens, and tied classes."""

from typing import Any

import pytest
import torch

from cab import Pattern
from cab.attention.build import LayerBuilder
from cab.backbones.decoder import Decoder, TiedHead, TokenClassifier
from cab.backbones.encoder import NORMS, Encoder
from cab.backbones.positions import POSITIONS
from cab.plugins import registry

SIZES: dict[str, Any] = {"vocabulary": 11, "heads": 2, "dim": 4, "mlp": 8}
N = 8


def attention() -> LayerBuilder:
    return LayerBuilder(registry.load("mechanism", "softmax"), {}, "CC")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_a_decoders_output_depends_on_the_past_alone(norm: str, positions: str) -> None:
    model = Decoder(attention(), 3, **SIZES, max_len=N, layers=2, norm=norm, positions=positions).double().eval()
    ids = torch.randint(1, 11, (3, N))
    changed = ids.clone()
    changed[:, 3] = ids[:, 3] % 10 + 1
    differences = (model(ids) - model(changed)).abs().amax((0, 2))
    assert differences.gt(1e-9).nonzero().flatten().tolist() == list(range(3, N))


def test_places_are_labelled_as_they_are_among_all() -> None:
    model = TokenClassifier(Encoder(attention(), Pattern.NS, **SIZES, max_len=N, layers=1), 3)
    ids = torch.randint(1, 11, (3, N))
    indices = torch.tensor([[0, 3], [7, 7], [2, 1]])
    torch.testing.assert_close(model(ids, indices=indices), model(ids)[torch.arange(3)[:, None], indices])


def test_tied_classes_are_the_last_embeddings() -> None:
    model = Decoder(attention(), 4, tied=True, **SIZES, max_len=N, layers=1)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(model.head(x), x @ model.encoder.tokens.weight[7:].T / 8**0.5)


@pytest.mark.parametrize(("std", "expected"), [(1.0, 1.0), (0.5, 1.0), (0.02, 0.02 * 32)])
def test_tied_logits_begin_with_a_deviation_of_one_or_of_the_embeddings(std: float, expected: float) -> None:
    torch.manual_seed(0)
    tokens = torch.nn.Embedding(500, 1024)
    torch.nn.init.normal_(tokens.weight, std=std)
    logits = TiedHead(tokens, 500, std)(torch.nn.functional.layer_norm(torch.randn(50, 1024), (1024,)))
    assert abs(logits.std().item() / expected - 1) < 0.05


def test_more_classes_than_embeddings_cannot_be_tied() -> None:
    with pytest.raises(ValueError, match="12 classes cannot be tied to 11 embeddings"):
        Decoder(attention(), 12, tied=True, **SIZES, max_len=N, layers=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("name", ["softmax", "linear", "none"])
def test_a_stream_has_the_logits_of_the_whole_sequence(name: str, positions: str, norm: str) -> None:
    builder = LayerBuilder(registry.load("mechanism", name), {}, "CS")
    model = Decoder(builder, 3, **SIZES, max_len=N, layers=2, norm=norm, positions=positions).double().eval()
    ids = torch.randint(1, 11, (3, N))
    stream = model.stream(ids[:, :1])
    assert stream.blocks.streams == (name != "none")  # which is computed anew
    out = torch.cat([stream.step(ids[:, :3]), *(stream.step(ids[:, i : i + 1]) for i in range(3, N))], 1)
    torch.testing.assert_close(out, model(ids))


def test_a_stream_goes_on_with_the_most_likely_class() -> None:
    model = Decoder(attention(), 9, **SIZES, max_len=N, layers=1).double().eval()
    stream = model.stream(torch.zeros(2, 1, dtype=torch.long))
    tokens = torch.cat([torch.zeros(2, 1, dtype=torch.long), *(stream.next() for _ in range(N - 1))], 1)
    assert torch.equal(tokens[:, 1:], model(tokens)[:, :-1].argmax(-1) + 2)  # two tokens are of no class
