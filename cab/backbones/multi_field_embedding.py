"""Embeddings of tokens that have several ids, as a key and its value."""

from torch import Tensor, nn


class MultiFieldEmbedding(nn.Module):
    """Embeds each field of a token with one shared table, and sums the embeddings.

    The fields share one vocabulary: an id belongs to one field, except for an id that says that a field is empty.
    """

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors (batch, n, width) of ids (batch, n, fields), or of ids (batch, n) with one field."""
        x: Tensor = self.embedding(ids)
        return x.sum(-2) if ids.dim() == 3 else x
