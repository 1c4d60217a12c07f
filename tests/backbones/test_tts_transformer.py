"""Transformer TTS: decoding is the whole computation, step by step; when it ends; what depends on what."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab.attention.build import LayerBuilder
from cab.backbones.tts_transformer import TransformerTTS
from cab.plugins import registry

N, M, BANDS, FRAMES = 6, 5, 4, 2
Y_MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])


def tts_transformer(name: str = "softmax", pattern: str = "CC", **changes: Any) -> TransformerTTS:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocabulary": 7, "bands": BANDS, "frames": FRAMES, "max_len": N, "source_len": M}
    sizes |= {"heads": 2, "dim": 4, "layers": 2, "encoder_layers": 1, "mlp": 8, "prenet": 8, "kernel": 3, "postnet": 2}
    builder = LayerBuilder(registry.load("mechanism", name), {}, pattern)
    return TransformerTTS(builder, **{**sizes, **changes}).double().eval()


def phonemes() -> Tensor:
    return torch.tensor([[1, 2, 3, 4, 5], [6, 5, 4, 0, 0]])


@pytest.mark.parametrize(("pattern", "name"), [("CC", "softmax"), ("CS", "linear"), ("CC", "none"), ("NS", "none")])
@pytest.mark.parametrize("changes", [{}, {"norm": "post", "rotary": True, "postnet": 0, "rate": 0.5}])
def test_decoding_is_the_whole_computation_on_what_it_decodes(pattern: str, name: str, changes: Any) -> None:
    model = tts_transformer(name, pattern, **changes)
    with torch.no_grad():
        model.stop.weight.zero_()
        model.stop.bias.fill_(-1.0)  # no end
        assert model.stream(phonemes(), Y_MASK).blocks.streams == (name != "none" or pattern == "NS")
        mel, frames = model.speak(phonemes(), Y_MASK)
        assert frames.tolist() == [N * FRAMES] * 2 and mel.shape == (2, N * FRAMES, BANDS)
        x = torch.zeros(2, N, FRAMES * BANDS).double()
        for i in range(N - 1):  # the frames before, one step after another
            x[:, i + 1] = model(x, None, phonemes(), Y_MASK)[0][:, i]
        _, after, _ = model(x, None, phonemes(), Y_MASK)
    torch.testing.assert_close(mel, after.reshape(2, N * FRAMES, BANDS))


def test_each_example_ends_with_its_first_step_above_0(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tts_transformer()
    stops = iter(torch.tensor([[-1.0, -1.0], [-1.0, 2.0], [-1.0, -1.0], [1.0, -1.0], [9.0, 9.0]]))
    read = model._read
    monkeypatch.setattr(model, "_read", lambda out: (read(out)[0], next(stops)[:, None]))
    mel, frames = model.speak(phonemes(), Y_MASK)
    assert frames.tolist() == [4 * FRAMES, 2 * FRAMES] and mel.shape[1] == 4 * FRAMES


def test_a_step_depends_on_earlier_frames_and_on_all_phonemes() -> None:
    model = tts_transformer(postnet=0, convolutions=0)
    x = torch.randn(2, N, FRAMES * BANDS).double()
    changed = x.clone()
    changed[:, 3] += 1
    before, _, stop = model(x, None, phonemes(), None)
    moved = (before - model(changed, None, phonemes(), None)[0]).abs().amax((0, 2)).gt(1e-9)
    assert moved.tolist() == [False] * 3 + [True] * 3 and stop.shape == (2, N)
    for index in range(M):
        other = phonemes()
        other[:, index] = (other[:, index] + 1) % 7
        assert (before - model(x, None, other, None)[0]).abs().amax((0, 2)).gt(1e-12).all()


def test_padding_is_invisible_on_both_sides() -> None:
    model = tts_transformer()
    x, x_mask = torch.randn(2, N, FRAMES * BANDS).double(), torch.tensor([[True] * N, [True] * 3 + [False] * 3])
    out = model(x, x_mask, phonemes(), Y_MASK)
    alone = model(x[1:, :3], None, phonemes()[1:, :3], None)
    for ours, theirs in zip(out, alone, strict=True):
        torch.testing.assert_close(ours[1:, :3], theirs)


def test_steps_lie_as_far_apart_as_the_rate_says() -> None:
    model = tts_transformer(rate=0.5)
    torch.testing.assert_close(model.decoder_positions.table[2::2][:2], model.encoder_positions.table[1:3])
