"""CAB's autoregressive text to speech (Zhang et al., arXiv 2210.07661, table 1), by Transformer TTS.

    y        D  @2  s  t                 phonemes: the source
    x        0000 1234 5678              the frames of the step before, `frames` a step
    target   1234 5678 9___              the frames of this one

MCD and MSD are of speech that is decoded frame after frame, by the mechanism's own `step` where it streams; l1 is the
error where the model is shown the recording's frames, which says less of a model that cannot attend. A step is the last
where the model's own logit says so. A model that never ends gains by CAB's MCD and MSD, which are a frame of what is
spoken; `mcd_recorded` is a frame of the recording. Prenets have no dropout there, so that one model says one thing.

Departures at quick scale: sentences of a synthesiser, convolutions of kernel 1 in place of 5, rotary positions beside
the sinusoids in self attention, steps whose sinusoids go along with the phonemes, and no postnet. With convolutions of
kernel 3 the encoder needs no attention.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch
from cab.backbones.tts_transformer import TransformerTTS
from cab.contracts.task import LayerFactory, Stream
from cab.data.espeak import Utterance
from cab.suites.speech import BANDS, Speech, padded, sum_and_count

STOP_WEIGHT = 5.0  # of the last step, as CAB's script has it


class CabTTSTransformer(Speech):
    """Speaks `source_len` phonemes at most, in `seq_len` steps of `frames` frames at most."""

    slots = ("CC", "CS", "NS")
    departures = (
        ("convolutions of kernel 1", {"kernel": 1}),
        ("rotary positions", {"rotary": True}),
        ("positions along the phonemes", {"rate": {"not": 1.0}}),
        ("no postnet", {"postnet": 0}),
    )

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        corpus: str = "espeak",
        frames: int = 4,
        layers: int = 2,
        encoder_layers: int = 2,
        mlp: int = 256,
        dropout: float = 0.0,
        norm: str = "pre",
        rotary: bool = True,
        convolutions: int = 3,
        kernel: int = 1,
        convolution_dropout: float = 0.0,
        prenet: int = 64,
        prenet_dropout: float = 0.5,
        postnet: int = 0,
        rate: float = 0.63,
    ) -> None:
        if frames < 1:
            raise ValueError(f"frames={frames}: at least 1 a step")
        super().__init__(seq_len=seq_len, source_len=source_len, corpus=corpus, frames=frames)
        self.frames = frames
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: an odd number of tokens")
        self.sizes: dict[str, Any] = {
            "heads": heads,
            "dim": dim,
            "layers": layers,
            "encoder_layers": encoder_layers,
            "mlp": mlp,
            "dropout": dropout,
            "norm": norm,
            "rotary": rotary,
            "convolutions": convolutions,
            "kernel": kernel,
            "convolution_dropout": convolution_dropout,
            "prenet": prenet,
            "prenet_dropout": prenet_dropout,
            "postnet": postnet,
            "rate": rate,
        }

    def collate(self, examples: Sequence[Utterance], trim: bool = False) -> Batch:
        """Return x and target (batch, n, frames * 80) and y (batch, m) with their masks; a step's missing frames are 0.

        The input `frames` (batch,) is the number of frames of each recording.
        """
        examples = [self.cut(each) for each in examples]
        mels = [torch.from_numpy(self.standardised(each, "mel")) for each in examples]
        steps = [-(-len(mel) // self.frames) for mel in mels]
        n, m = (max(steps), None) if trim else (self.seq_len, self.source_len)
        target = padded(mels, n * self.frames).unflatten(1, (n, self.frames)).flatten(2)
        x = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1)
        return Batch(
            x,
            padded([torch.ones(count, dtype=torch.bool) for count in steps], n),
            padded([torch.from_numpy(each.phonemes) for each in examples], m),
            padded([torch.ones(len(each.phonemes), dtype=torch.bool) for each in examples], m),
            target,
            {"frames": torch.tensor([len(mel) for mel in mels])},
        )

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build a Transformer TTS."""
        return TransformerTTS(
            attention,
            vocabulary=self.vocabulary,
            bands=BANDS,
            frames=self.frames,
            max_len=self.seq_len,
            source_len=self.source_len,
            **self.sizes,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum the absolute and squared errors of frames, before and after the postnet, and the entropy of the end."""
        assert batch.target is not None and batch.x_mask is not None
        before, after, stop = model(batch.x, batch.x_mask, batch.y, batch.y_mask)
        real = self._real_frames(batch)
        target = self._single(batch.target)[real]
        loss = torch.zeros((), device=batch.x.device)
        for mel in (before, after) if self.sizes["postnet"] else (after,):
            frames = self._single(mel).float()[real]
            loss = loss + F.l1_loss(frames, target) + F.mse_loss(frames, target)
        last = F.pad(batch.x_mask, (0, 1))[:, 1:] != batch.x_mask
        weight = torch.tensor(STOP_WEIGHT, device=stop.device)
        entropy = F.binary_cross_entropy_with_logits(
            stop.float()[batch.x_mask], last[batch.x_mask].float(), pos_weight=weight
        )
        return loss + entropy

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sum and count for each example the distances of what is decoded, and the errors of its frames: (batch, 2)."""
        assert isinstance(model, TransformerTTS) and batch.target is not None and batch.y is not None
        _, after, _ = model(batch.x, batch.x_mask, batch.y, batch.y_mask)
        real, target = self._real_frames(batch), self._single(batch.target)
        error = (self._single(after).float() - target).abs().mean(-1)
        mel, spoken = model.speak(batch.y, batch.y_mask)
        return {
            **self.distances(mel, spoken, target, batch.inputs["frames"]),
            "l1": sum_and_count(error, real),
        }

    def stream(self, model: nn.Module, batch: Batch) -> Stream:
        """Begin the spectrograms of a batch: a token is a step of `frames` frames."""
        assert isinstance(model, TransformerTTS) and batch.y is not None
        return model.stream(batch.y, batch.y_mask)

    def _single(self, mel: Tensor) -> Tensor:
        """Return frames (batch, n * frames, 80) of steps (batch, n, frames * 80)."""
        return mel.unflatten(-1, (self.frames, BANDS)).flatten(1, 2)

    def _real_frames(self, batch: Batch) -> Tensor:
        """Return the mask (batch, n * frames) of the recordings' frames."""
        counts = batch.inputs["frames"]
        return torch.arange(batch.x.shape[1] * self.frames, device=counts.device) < counts[:, None]
