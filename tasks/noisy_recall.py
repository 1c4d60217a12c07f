"""In-context recall with noise, in causal self attention (MAD, Poli et al., arXiv 2403.17844, section 3.1).

    ids      a 7 c 9 ! ! c 9 a 7 ! ! c 9        pairs that repeat, and pairs of noise between them
    labels               9   7       9           the value, at a key that was seen before

Which value a key has is drawn anew for each sequence, and several keys may share one.
"""

import numpy as np

from cab.backbones.labels import IGNORED
from cab.data.draws import Draws, Whole
from cab.suites.labelling import Labelling


class NoisyRecall(Labelling):
    """Pairs of `keys` and `values`, a share `noise` of which are replaced by tokens of `distractors` other kinds."""

    paper = "arXiv 2403.17844"

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        keys: int = 8,
        values: int = 8,
        noise: float = 0.2,
        distractors: int = 16,
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
        if seq_len < 4 or seq_len % 2 or min(keys, values, distractors) < 1 or values < 2:
            raise ValueError(
                f"seq_len={seq_len}, keys={keys}, values={values}, distractors={distractors}: at least 4 and even, "
                "1, 2 and 1 are needed"
            )
        if not 0 <= noise < 1:
            raise ValueError(f"noise={noise}: from 0 to below 1 of the pairs")
        self.keys, self.noise, self.distractors = keys, noise, distractors
        self.vocabulary, self.classes = keys + values + distractors, values

    def drawn(self, draws: Draws) -> tuple[Whole, Whole]:
        """Draw the book of a sequence, its pairs, and where noise stands."""
        pairs = self.seq_len // 2
        book = draws.below(self.classes, self.keys)
        keys = draws.below(self.keys, pairs)
        values = np.take_along_axis(book, keys, 1)
        noisy = draws.below(1 << 20, pairs) < self.noise * (1 << 20)
        noise = self.keys + self.classes + draws.below(self.distractors, self.seq_len)
        ids = np.stack([keys, self.keys + values], -1).reshape(noise.shape)
        ids = np.where(np.repeat(noisy, 2, 1), noise, ids)
        # a pair that noise took was not seen
        seen = np.arange(self.keys) == np.where(noisy, -1, keys)[:, :, None]
        before = np.take_along_axis(seen.cumsum(1) - seen, keys[:, :, None], 2)[:, :, 0] > 0
        labels = np.full_like(ids, IGNORED)
        labels[:, ::2] = np.where(before & ~noisy, values, IGNORED)
        return ids, labels
