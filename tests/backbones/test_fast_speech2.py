"""FastSpeech 2: which frames a phoneme has, what depends on what, predicted durations, padding."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab.attention.build import LayerBuilder
from cab.backbones.fast_speech2 import BINS, Convolution, FastSpeech2
from cab.plugins import registry

N, M = 9, 5
MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])
FRAMES = torch.tensor([[0, 0, 0, 2, 2, 3, 3, 3, 4], [0, 1, 2, 2, 0, 0, 0, 0, 0]])
FRAME_MASK = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])


def fast_speech2(name: str = "softmax", **changes: Any) -> FastSpeech2:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocabulary": 7, "bands": 4, "max_len": N, "source_len": M, "heads": 2, "dim": 4}
    sizes |= {"layers": 1, "encoder_layers": 1, "mlp": 8, "kernel": 1, "predictor_kernel": 1, **changes}
    return FastSpeech2(LayerBuilder(registry.load("mechanism", name), {}, "NS"), **sizes).double().eval()


def phonemes() -> Tensor:
    return torch.tensor([[1, 2, 3, 4, 5], [6, 5, 4, 0, 0]])


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_padding_is_invisible_in_phonemes_and_frames(kernel: int, norm: str) -> None:
    model = fast_speech2(kernel=kernel, predictor_kernel=kernel, norm=norm)
    variances = {name: torch.randn(2, M).double() for name in ("pitch", "energy")}
    mel, predicted = model(phonemes(), MASK, FRAMES, FRAME_MASK, variances)
    alone, alone_predicted = model(
        phonemes()[1:, :3], None, FRAMES[1:, :4], None, {name: t[1:, :3] for name, t in variances.items()}
    )
    torch.testing.assert_close(mel[1:, :4], alone)
    for name in ("duration", "pitch", "energy"):
        torch.testing.assert_close(predicted[name][1:, :3], alone_predicted[name])


@pytest.mark.parametrize(("name", "kernel", "reach"), [("none", 1, 0), ("none", 3, 2), ("softmax", 1, M)])
def test_nothing_but_attention_and_wider_kernels_moves_information(name: str, kernel: int, reach: int) -> None:
    model = fast_speech2(name, kernel=kernel, variances=False)
    changed = phonemes()
    changed[0, 4] = 1
    frames = torch.arange(M).expand(2, -1)
    mels = [model(ids, None, frames, None)[0] for ids in (phonemes(), changed)]
    moved = (mels[0] - mels[1])[0].abs().amax(-1).gt(1e-12).nonzero().flatten().tolist()
    # an encoder and a decoder with two convolutions each: 4 of kernel 3 reach 4 frames
    assert moved == list(range(max(0, 4 - 2 * reach), M))


def test_pitch_and_energy_are_added_by_their_bin_of_256() -> None:
    model = fast_speech2("none")
    assert set(model.predictors) == {"duration", "pitch", "energy"} and set(model.bins) == {"pitch", "energy"}
    assert model.bins["pitch"].num_embeddings == BINS

    def mel(pitch: float) -> Tensor:
        variances = {"pitch": torch.full((2, M), pitch).double(), "energy": torch.zeros(2, M).double()}
        return model(phonemes(), None, FRAMES, None, variances)[0]

    def energy(pitch: float) -> Tensor:
        variances = {"pitch": torch.full((2, M), pitch).double(), "energy": torch.zeros(2, M).double()}
        return model(phonemes(), None, FRAMES, None, variances)[1]["energy"]

    assert not torch.equal(energy(0.0), energy(2.0)), "it is predicted of what the pitch was added to"
    assert torch.equal(mel(0.001), mel(0.002)) and not torch.equal(mel(0.001), mel(0.1))
    assert torch.equal(mel(5.0), mel(99.0)) and not torch.equal(mel(5.0), mel(-5.0))
    assert set(fast_speech2(variances=False).predictors) == {"duration"}


def test_speech_has_the_durations_that_are_predicted() -> None:
    model = fast_speech2(variances=False)
    durations = torch.tensor([[2.0, 0.0, 1.0, 3.0, 0.0], [1.0, 1.0, 1.0, 9.0, 9.0]])
    frames = torch.tensor([[0, 0, 2, 3, 3, 3], [0, 1, 2, 0, 0, 0]])
    model.predictors["duration"] = Says((durations + 1).log() + 0.01)
    mel, counts = model.speak(phonemes(), MASK)
    assert counts.tolist() == [6, 3] and mel.shape == (2, 6, 4)
    mask = torch.arange(6) < counts[:, None]
    expected, _ = model(phonemes(), MASK, frames, mask)
    torch.testing.assert_close(mel[mask], expected[mask])


@pytest.mark.parametrize(("each", "expected"), [(-3.0, 1), (4.0, N)])
def test_speech_has_a_frame_at_least_and_the_most_at_most(each: float, expected: int) -> None:
    model = fast_speech2(variances=False)
    model.predictors["duration"] = Says(torch.full((2, M), each))
    mel, counts = model.speak(phonemes(), MASK)
    assert counts.tolist() == [expected] * 2 and mel.shape[1] == expected and mel.isfinite().all()


class Says(torch.nn.Module):
    """Predicts what it is told."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.values


@pytest.mark.parametrize("kernel", [0, 2])
def test_an_even_kernel_is_refused(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"kernel={kernel}: an odd number of tokens"):
        Convolution(4, 4, kernel)
    with pytest.raises(ValueError, match="unknown norm"):
        fast_speech2(norm="both")
