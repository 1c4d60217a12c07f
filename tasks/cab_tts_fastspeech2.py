"""CAB's text to speech without autoregression (Zhang et al., arXiv 2210.07661, table 1), by FastSpeech 2.

    y        D  @2  s  t            phonemes: the source
    x        0 0 0 1 1 2 2 2 3      which phoneme each frame is of, as it was recorded
    target   frames of the log-mel spectrogram

Training reads the durations of the recording. MCD and MSD are of speech with durations that the model predicts; l1 is
the error with those of the recording.

Departures at quick scale: sentences of a synthesiser, no pitch and no energy, and networks of kernel 1 with rotary
positions, pre-norm: with convolutions of kernel 3 the model does not need attention.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cab import Batch
from cab.backbones.fast_speech2 import FastSpeech2
from cab.contracts.task import LayerFactory
from cab.data.espeak import Utterance
from cab.suites.speech import BANDS, Speech, padded, sum_and_count

VARIANCES = ("pitch", "energy")


class CabTTSFastSpeech2(Speech):
    """Speaks `source_len` phonemes at most, in `seq_len` frames at most."""

    slots = ("NS",)
    metrics = {
        "mcd": ("distance", False),
        "msd": ("distance", False),
        "mcd_recorded": ("distance", False),
        "l1": ("", False),
        "duration_mse": ("", False),
    }
    departures = (
        ("convolutions of kernel 1", {"kernel": 1}),
        ("rotary positions", {"rotary": True}),
        ("no pitch and no energy", {"variances": False}),
        ("pre-norm", {"norm": "pre"}),
    )

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        corpus: str = "espeak",
        variances: bool = False,
        layers: int = 2,
        encoder_layers: int = 2,
        mlp: int = 256,
        kernel: int = 1,
        dropout: float = 0.0,
        norm: str = "pre",
        rotary: bool = True,
        predictor_kernel: int = 1,
        predictor_dropout: float = 0.0,
    ) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len, corpus=corpus)
        for name, value in (("kernel", kernel), ("predictor_kernel", predictor_kernel)):
            if value < 1 or value % 2 == 0:
                raise ValueError(f"{name}={value}: an odd number of tokens")
        self.variances = VARIANCES if variances else ()
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "variances": variances,
            "layers": layers,
            "encoder_layers": encoder_layers,
            "mlp": mlp,
            "kernel": kernel,
            "dropout": dropout,
            "norm": norm,
            "rotary": rotary,
            "predictor_kernel": predictor_kernel,
            "predictor_dropout": predictor_dropout,
        }

    def collate(self, examples: Sequence[Utterance], trim: bool = False) -> Batch:
        """Return x (batch, n) and y (batch, m) with their masks, and target (batch, n, 80).

        The inputs are durations, and pitch and energy where they are predicted: means over a phoneme, (batch, m).
        """
        examples = [self.cut(each) for each in examples]
        n, m = (None, None) if trim else (self.seq_len, self.source_len)
        frames = [np.repeat(np.arange(len(each.durations)), each.durations) for each in examples]
        inputs = {"durations": padded([torch.from_numpy(each.durations) for each in examples], m)}
        for name in self.variances:
            means = [
                _mean_of_phonemes(self.standardised(each, name), index, each.durations)
                for each, index in zip(examples, frames, strict=True)
            ]
            inputs[name] = padded(means, m)
        return Batch(
            padded([torch.from_numpy(index) for index in frames], n),
            padded([torch.ones(len(index), dtype=torch.bool) for index in frames], n),
            padded([torch.from_numpy(each.phonemes) for each in examples], m),
            padded([torch.ones(len(each.phonemes), dtype=torch.bool) for each in examples], m),
            padded([torch.from_numpy(self.standardised(each, "mel")) for each in examples], n),
            inputs,
        )

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build a FastSpeech 2."""
        return FastSpeech2(
            attention,
            vocabulary=self.vocabulary,
            bands=BANDS,
            max_len=self.seq_len,
            source_len=self.source_len,
            **self.sizes,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum the mean absolute error of frames, and the mean squared errors of what is predicted of phonemes."""
        error, predicted = self._errors(model, batch)
        assert batch.x_mask is not None and batch.y_mask is not None
        loss = error[batch.x_mask].mean()
        for squares in predicted.values():
            loss = loss + squares[batch.y_mask].mean()
        return loss

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sum and count for each example the distances of its frames, and the errors of its durations: (batch, 2)."""
        assert batch.x_mask is not None and batch.y_mask is not None and batch.target is not None
        assert isinstance(model, FastSpeech2) and batch.y is not None
        error, predicted = self._errors(model, batch)
        frames = batch.x_mask.sum(1)
        mel, spoken = model.speak(batch.y, batch.y_mask)
        return {
            **self.distances(mel, spoken, batch.target, frames),
            "l1": sum_and_count(error, batch.x_mask),
            "duration_mse": sum_and_count(predicted["duration"], batch.y_mask),
        }

    def _errors(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return absolute errors of frames (batch, n), and squared errors of phonemes: name -> (batch, m)."""
        variances = {name: batch.inputs[name] for name in self.variances}
        mel, predicted = model(batch.y, batch.y_mask, batch.x, batch.x_mask, variances)
        wanted = {"duration": (batch.inputs["durations"] + 1).float().log(), **variances}
        squares = {name: (predicted[name].float() - value).square() for name, value in wanted.items()}
        return (mel.float() - batch.target).abs().mean(-1), squares


def _mean_of_phonemes(values: Any, index: Any, durations: Any) -> Tensor:
    """Average values (frames,) over the frames of each phoneme, 0 for one without: (phonemes,)."""
    sums = np.bincount(index, values, minlength=len(durations))
    return torch.from_numpy((sums / np.maximum(durations, 1)).astype(np.float32))
