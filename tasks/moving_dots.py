"""Motion in noncausal or causal self attention: in which direction has each dot moved? Frames of rows and columns.

    frame    0       1       2       3
    row 0   .a...   ..a..   ...a.   ....a      label of a in the last frame: right
    row 1   ..b..   .b...   b....   ....b      label of b in the last frame: left; rows are closed to rings

A dot moves by one column a frame, from a random column, so that one frame says nothing: without attention the accuracy
is chance. With `shuffle` the frames of each example stand in a random order. A dot that moves to the left through the
frames of one that moves to the right, in reverse order, is as likely, so the accuracy must be chance again: a score
above it would come from single frames.

A token has four ids: what is there (0: nothing, 1 + i: dot i), its frame, row and column. Beside them a batch offers
ids (batch, n):

- `frame`; `cell`, the same in all frames for one row and column; `channel`, the row; `group`, a band of two rows;
- `subject`: 1 + i for dot i in all frames, 0 for the background; `component`: the tokens of one frame with one subject;
- `modality`: 1 for the frames that are seen, 2 for the last one, which is asked about.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cab import Batch
from cab.backbones.decoder import TokenClassifier
from cab.backbones.labels import IGNORED
from cab.backbones.multi_field_embedding import MultiFieldEmbedding
from cab.contracts.task import LayerFactory
from cab.data.counter_rng import CounterRNG
from cab.suites.token_labelling import TokenLabelling

IMAGE, QUESTION = 1, 2  # of the input `modality`


class MovingDots(TokenLabelling):
    """`dots` dots, each in its own row, on `frames` frames of `height` rows. The width is the rest of `seq_len`."""

    slots = ("NS", "CS")
    inputs = ("frame", "cell", "component", "group", "subject", "channel", "modality")
    rasters = (3,)
    classes = 2  # left and right
    shape: tuple[int, int, int]

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        pattern: str = "NS",
        frames: int = 4,
        height: int = 4,
        dots: int = 3,
        shuffle: bool = False,
        examples: int = 100_000,
        layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "none",
    ) -> None:
        super().__init__(
            seq_len=seq_len,
            source_len=source_len,
            heads=heads,
            dim=dim,
            examples=examples,
            layers=layers,
            mlp=mlp,
            dropout=dropout,
            norm=norm,
            positions=positions,
        )
        if frames < 2 or height < 1 or seq_len % (frames * height) or seq_len < 3 * frames * height:
            raise ValueError(
                f"seq_len={seq_len}, frames={frames}, height={height}: at least 2 frames and 1 row, and seq_len must "
                f"be a multiple of their product, at least three times it: a dot moves left or right among 3 columns"
            )
        if not 1 <= dots <= height:
            raise ValueError(f"dots={dots}: from 1 to height={height}, since each has a row of its own")
        self.pattern = pattern
        self.shape = frames, height, seq_len // (frames * height)
        self.vocabulary = 1 + dots + sum(self.shape)
        self.dots, self.shuffle = dots, shuffle

    def collate(self, examples: Sequence[tuple[int, int]], trim: bool = False) -> Batch:
        """Draw the dots; none is padded. x is (batch, n, 4), target (batch, n) with 0 for left and 1 for right."""
        rng = CounterRNG([number for number, _ in examples])
        frames, height, width = self.shape
        rows = rng.distinct(height, self.dots)
        starts, directions = rng.integers(width, self.dots), rng.integers(2, self.dots)
        # which moment each frame shows: (batch, frames)
        moments = rng.distinct(frames, frames) if self.shuffle else np.arange(frames)[None]
        columns = (starts[:, None] + (2 * directions[:, None] - 1) * moments[:, :, None]) % width
        places = (np.arange(frames)[:, None] * height + rows[:, None]) * width + columns  # (batch, frames, dots)
        subject = np.zeros((len(examples), self.seq_len), np.int64)
        dots = np.broadcast_to(1 + np.arange(self.dots), places.shape)
        np.put_along_axis(subject, places.reshape(len(examples), -1), dots.reshape(len(examples), -1), 1)
        target = np.full_like(subject, IGNORED)
        np.put_along_axis(target, places[:, -1], directions, 1)
        return self._batch(torch.from_numpy(subject), torch.from_numpy(target))

    def _batch(self, subject: Tensor, target: Tensor) -> Batch:
        """Add what the place of a token says."""
        frames, height, width = self.shape
        frame, row, column = torch.unravel_index(torch.arange(self.seq_len), self.shape)
        of_place = {
            "frame": frame,
            "cell": row * width + column,
            "channel": row,
            "group": row // 2,
            "modality": torch.where(frame == frames - 1, QUESTION, IMAGE),
        }
        inputs = {name: ids.expand_as(subject) for name, ids in of_place.items()}
        inputs |= {"subject": subject, "component": frame * (1 + self.dots) + subject}
        # the fields share one vocabulary
        fields = [
            subject,
            1 + self.dots + frame,
            1 + self.dots + frames + row,
            1 + self.dots + frames + height + column,
        ]
        return Batch(torch.stack(torch.broadcast_tensors(*fields), -1), target=target, inputs=inputs)

    def model(self, attention: LayerFactory) -> nn.Module:
        """Build the model with the sum of four embeddings at each token."""
        model = super().model(attention)
        assert isinstance(model, TokenClassifier)
        model.encoder.tokens = MultiFieldEmbedding(model.encoder.tokens)  # type: ignore[assignment]
        return model
