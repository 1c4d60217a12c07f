"""Selective copying in causal self attention (MAD, Poli et al., arXiv 2403.17844; Gu and Dao, arXiv 2312.00752).

    ids      .  7  .  .  2  7  .  .  ?  ?  ?        tokens among blanks, then a query for each
    labels                           7  2  7        the tokens, in their order

The number of a token depends on all tokens before it and not on its position: attention at a fixed distance cannot
find it.
"""

import numpy as np

from cab.backbones.labels import IGNORED
from cab.data.counter_rng import CounterRNG, Integers
from cab.suites.token_labelling import TokenLabelling


class SelectiveCopy(TokenLabelling):
    """`copied` tokens of `symbols` ids among blanks; the last `copied` of the `seq_len` tokens are the queries."""

    paper = "arXiv 2403.17844"

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        copied: int = 16,
        symbols: int = 14,
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
        if symbols < 2 or not 1 <= copied <= seq_len // 2:
            raise ValueError(
                f"copied={copied}, symbols={symbols}: from 1 to half of seq_len={seq_len}, of at least 2 kinds"
            )
        self.copied = copied
        self.vocabulary, self.classes = symbols + 2, symbols  # 0 is a blank, 1 a query

    def generate(self, rng: CounterRNG) -> tuple[Integers, Integers]:
        """Draw the tokens and their positions."""
        first_query = self.seq_len - self.copied
        positions = np.sort(rng.distinct(first_query, self.copied), 1)
        tokens = rng.integers(self.classes, self.copied)
        ids = np.zeros((len(tokens), self.seq_len), dtype=np.int64)
        np.put_along_axis(ids, positions, 2 + tokens, 1)
        ids[:, first_query:] = 1
        labels = np.full_like(ids, IGNORED)
        labels[:, first_query:] = tokens
        return ids, labels
