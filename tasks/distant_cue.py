"""A control for locality, in noncausal self attention: the answer is `distance` tokens before the question.

    ids      4 1 7 C3 5 2 2 ... 6 1 ? 8        one cue among noise, and the question
    labels                          3

A mechanism that attends to a window cannot solve it: with L layers it reaches L windows to each side, and beyond that
its accuracy is chance. With `task.distance=4` the cue is within every window; the difference between the two is the
cost of windows. No other token has the ids of cues, so pooling all tokens (`mean`) finds the cue. The task therefore
measures reach, and nothing else.
"""

import numpy as np

from cab.backbones.labels import IGNORED
from cab.data.counter_rng import CounterRNG, Integers
from cab.suites.token_labelling import TokenLabelling


class DistantCue(TokenLabelling):
    """Each sequence has one of `cues` ids, and a question `distance` tokens after it, among tokens of `noise` ids."""

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

    def generate(self, rng: CounterRNG) -> tuple[Integers, Integers]:
        """Draw the noise, the cue and its position."""
        ids = 1 + rng.integers(self.noise, self.seq_len)
        position = rng.integers(self.seq_len - self.distance, 1)
        cue = rng.integers(self.classes, 1)
        np.put_along_axis(ids, position, 1 + self.noise + cue, 1)
        np.put_along_axis(ids, position + self.distance, 0, 1)
        labels = np.full_like(ids, IGNORED)
        np.put_along_axis(labels, position + self.distance, cue, 1)
        return ids, labels
