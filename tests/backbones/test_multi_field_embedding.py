"""Tokens of several ids: their embeddings are summed."""

import torch
from torch import nn

from cab.backbones.multi_field_embedding import MultiFieldEmbedding


def test_fields_are_added_up() -> None:
    embedding = MultiFieldEmbedding(nn.Embedding(7, 4))
    x = torch.tensor([[[1, 2], [0, 3]]])
    weight = embedding.embedding.weight
    torch.testing.assert_close(embedding(x)[0], torch.stack([weight[1] + weight[2], weight[0] + weight[3]]))
    torch.testing.assert_close(embedding(x[..., 0]), weight[x[..., 0]])
