"""Labels: tokens without one count neither in the loss nor in the score."""

import math

import torch

from cab.backbones.labels import IGNORED, count_correct, label_loss, sum_nll


def test_what_is_not_labelled_is_neither_learnt_nor_scored() -> None:
    labels = torch.tensor([[0, -100, 1], [-100, 2, -100]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [0, 2, 1]]), 3).float() * 9
    assert count_correct(logits, labels).tolist() == [[1, 2], [1, 1]]
    assert count_correct(logits, labels, torch.tensor([[True, True, False]] * 2)).tolist() == [[1, 1], [1, 1]]
    expected = torch.nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(label_loss(logits, labels), expected)


def test_the_nats_of_labels_are_summed_for_each_example_and_counted() -> None:
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], [[1.0, 1.0, 1.0], [0.0, 9.0, 0.0]]])
    labels = torch.tensor([[2, 1], [0, IGNORED]])
    normalisers = [math.log(1 + math.e + math.e**2), math.log(math.e**3 + 2), math.log(3 * math.e)]
    expected = torch.tensor([[normalisers[0] - 2 + normalisers[1] - 0, 2.0], [normalisers[2] - 1, 1.0]])
    torch.testing.assert_close(sum_nll(logits, labels), expected)
