"""Timing only: random q, k and v (level `attend`) or random tokens (level `layer`), in all four patterns.

There are no data, no model and no training. `cab.attention.random_inputs` draws the tensors.
"""

from cab import Task


class Speed(Task):
    """The sizes of the tensors."""

    slots = ("NS", "CS", "NC", "CC")
    trains = False

    def __init__(self, *, seq_len: int, source_len: int | None = None, heads: int = 4, dim: int = 64) -> None:
        super().__init__(seq_len=seq_len, source_len=source_len)
        self.heads, self.dim = heads, dim
