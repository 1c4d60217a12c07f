"""State tracking in causal self attention: the sum of all digits so far, modulo `modulus` (2: parity).

    ids      1 0 1 1 0 1 0 1
    labels           1 0 0 1        the second half of them; the first is too short to say much

Every digit changes every later answer, so there is no token to look up: attention alone with a fixed depth learns short
sums only (Merrill and Sabharwal, arXiv 2207.00729), a recurrent state is enough.
"""

from cab.backbones.labels import IGNORED
from cab.data.draws import Draws, Whole
from cab.suites.labelling import Labelling


class Parity(Labelling):
    """Digits below `modulus`, and their running sums."""

    paper = "arXiv 2207.00729"

    def __init__(
        self,
        *,
        seq_len: int,
        source_len: int | None = None,
        heads: int = 2,
        dim: int = 32,
        modulus: int = 2,
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
        if modulus < 2:
            raise ValueError(f"modulus={modulus}: at least 2")
        self.vocabulary = self.classes = modulus

    def drawn(self, draws: Draws) -> tuple[Whole, Whole]:
        """Draw the digits and add them up."""
        ids = draws.below(self.classes, self.seq_len)
        labels = ids.cumsum(1) % self.classes
        labels[:, : self.seq_len // 2] = IGNORED
        return ids, labels
