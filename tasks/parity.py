"""State tracking in causal self attention: the sum of all digits so far, modulo `modulus` (2: parity).

    ids      1 0 1 1 0 1 0 1
    labels           1 0 0 1        on the second half: sums of few digits are too easy

Every digit changes every later answer, so no token can be looked up. A transformer of fixed depth learns short sums
only (Merrill and Sabharwal, arXiv 2207.00729), while a recurrent state is sufficient.
"""

from cab.backbones.labels import IGNORED
from cab.data.counter_rng import CounterRNG, Integers
from cab.suites.token_labelling import TokenLabelling


class Parity(TokenLabelling):
    """Digits below `modulus`, labelled with their prefix sums modulo `modulus`."""

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

    def generate(self, rng: CounterRNG) -> tuple[Integers, Integers]:
        """Draw the digits and compute their prefix sums."""
        ids = rng.integers(self.classes, self.seq_len)
        labels = ids.cumsum(1) % self.classes
        labels[:, : self.seq_len // 2] = IGNORED
        return ids, labels
