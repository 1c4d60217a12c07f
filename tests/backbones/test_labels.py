"""Labels: tokens without one count neither in the loss nor in the score."""

import torch

from cab.backbones.labels import count_correct, label_loss


def test_what_is_not_labelled_is_neither_learnt_nor_scored() -> None:
    labels = torch.tensor([[0, -100, 1], [-100, 2, -100]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [0, 2, 1]]), 3).float() * 9
    assert count_correct(logits, labels).tolist() == [[1, 2], [1, 1]]
    assert count_correct(logits, labels, torch.tensor([[True, True, False]] * 2)).tolist() == [[1, 1], [1, 1]]
    expected = torch.nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(label_loss(logits, labels), expected)
