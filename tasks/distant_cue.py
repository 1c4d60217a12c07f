"""A control for locality, in noncausal self attention: the answer stands `distance` tokens before the question.

    ids      4 1 7 C3 5 2 2 ... 6 1 ? 8        one cue among noise, and the question
    labels                          3

No mechanism that sees a window only can pass: with L layers its reach is L windows to each side, and further away its
accuracy is chance. `task.distance=4` asks the same of neighbours, which every window sees; the difference of the two is
what windows cost. The cue's ids are its own, so pooling everything (`mean`) finds it: this shows reach, nothing else.
"""

import numpy as np

from cab.backbones.labels import IGNORED
from cab.data.draws import Draws, Whole
from cab.suites.labelling import Labelling


class DistantCue(Labelling):
    """One of `cues` in each sequence, `distance` tokens before a question; the other tokens are of `noise` kinds."""

    slots = ("NS",)
    pattern = "NS"

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        distance: int = 192,
        cues: int = 16,
        noise: int = 32,
        examples: int = 100_000,
        layers: int = 2,
        mlp: int = 128,
        dropout: float = 0.0,
        norm: str = "pre",
        positions: str = "rotary",
    ) -> None:
        super().__init__(
            seq_len=seq_len, source_len=source_len, heads=heads, dim=dim, examples=examples, layers=layers, mlp=mlp,
            dropout=dropout, norm=norm, positions=positions,
        )  # fmt: skip
        if not 1 <= distance < seq_len:
            raise ValueError(f"distance={distance}: from 1 to below seq_len={seq_len}")
        if cues < 2 or noise < 1:
            raise ValueError(f"cues={cues}, noise={noise}: at least 2 and 1")
        self.distance, self.noise = distance, noise
        self.vocabulary, self.classes = 1 + noise + cues, cues

    def drawn(self, draws: Draws) -> tuple[Whole, Whole]:
        """Draw the noise, the cue and where it stands."""
        ids = 1 + draws.below(self.noise, self.seq_len)
        place = draws.below(self.seq_len - self.distance, 1)
        cue = draws.below(self.classes, 1)
        np.put_along_axis(ids, place, 1 + self.noise + cue, 1)
        np.put_along_axis(ids, place + self.distance, 0, 1)
        labels = np.full_like(ids, IGNORED)
        np.put_along_axis(labels, place + self.distance, cue, 1)
        return ids, labels
