"""Selective copying in causal self attention (MAD, Poli et al., arXiv 2403.17844; Gu and Dao, arXiv 2312.00752).

    ids      .  7  .  .  2  7  .  .  ?  ?  ?        tokens among blanks, then as many requests
    labels                           7  2  7        the tokens, in their order

Which token is the third depends on all that stand before it, and not on where it is: a fixed distance finds nothing.
"""

import numpy as np

from cab.backbones.labels import IGNORED
from cab.data.draws import Draws, Whole
from cab.suites.labelling import Labelling


class SelectiveCopy(Labelling):
    """`copied` tokens of `symbols` kinds among blanks; the last `copied` of `seq_len` tokens ask for them in order."""

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
        self.vocabulary, self.classes = symbols + 2, symbols  # 0 blank, 1 request

    def drawn(self, draws: Draws) -> tuple[Whole, Whole]:
        """Draw places and tokens."""
        room = self.seq_len - self.copied
        places = np.sort(draws.distinct(room, self.copied), 1)
        tokens = draws.below(self.classes, self.copied)
        ids = np.zeros((len(tokens), self.seq_len), dtype=np.int64)
        np.put_along_axis(ids, places, 2 + tokens, 1)
        ids[:, room:] = 1
        labels = np.full_like(ids, IGNORED)
        labels[:, room:] = tokens
        return ids, labels
