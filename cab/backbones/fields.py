"""Tokens that say several things at once: a key and its value, a key and what is asked about it."""

from torch import Tensor, nn


class Fields(nn.Module):
    """Ids (batch, n, fields) to the sum of their embeddings (batch, n, width); ids (batch, n) as they are.

    All fields share one vocabulary, so two fields have no id in common, but for the one that says "nothing".
    """

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, ids: Tensor) -> Tensor:
        """Embed each field and add them up."""
        x: Tensor = self.embedding(ids)
        return x.sum(-2) if ids.dim() == 3 else x
