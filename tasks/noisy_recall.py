"""In-context recall with noise, in causal self attention (MAD, Poli et al., arXiv 2403.17844, section 3.1).

    ids      a 7 c 9 ! ! c 9 a 7 ! ! c 9        pairs that repeat, and pairs of noise between them
    labels               9   7       9           the value, at each key that occurred before

The value of each key is drawn anew for each sequence, and several keys may have the same value.
"""

import numpy as np

from cab.backbones.labels import IGNORED
from cab.data.counter_rng import CounterRNG, Integers
from cab.suites.token_labelling import TokenLabelling


class NoisyRecall(TokenLabelling):
    """Pairs of one of `keys` and one of `values`; a share `noise` of them is replaced by pairs of `distractors` ids."""

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

    def generate(self, rng: CounterRNG) -> tuple[Integers, Integers]:
        """Draw the value of each key, the keys of the pairs, and which pairs are noise."""
        pairs = self.seq_len // 2
        values_of_keys = rng.integers(self.classes, self.keys)
        keys = rng.integers(self.keys, pairs)
        values = np.take_along_axis(values_of_keys, keys, 1)
        noisy = rng.integers(1 << 20, pairs) < self.noise * (1 << 20)
        noise = self.keys + self.classes + rng.integers(self.distractors, self.seq_len)
        ids = np.stack([keys, self.keys + values], -1).reshape(noise.shape)
        ids = np.where(np.repeat(noisy, 2, 1), noise, ids)
        # (examples, pairs, keys): a pair that noise has replaced shows no key
        shown = np.arange(self.keys) == np.where(noisy, -1, keys)[:, :, None]
        shown_before = np.take_along_axis(shown.cumsum(1) - shown, keys[:, :, None], 2)[:, :, 0] > 0
        labels = np.full_like(ids, IGNORED)
        labels[:, ::2] = np.where(shown_before & ~noisy, values, IGNORED)
        return ids, labels
