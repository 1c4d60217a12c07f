"""Labels of the tokens of a sequence: the loss, and the number of correct predictions."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label of a token without one: the default `ignore_index` of torch's cross-entropy


def label_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Average the cross-entropy over all labelled tokens: logits (batch, n, classes), labels (batch, n).

    With `smoothing` a share of each label's probability is spread over all classes (Szegedy et al., arXiv 1512.00567).
    """
    flat = logits.flatten(0, 1).float()
    return F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)


def count_correct(logits: Tensor, labels: Tensor, scored: Tensor | None = None) -> Tensor:
    """Count for each example its correctly predicted tokens and its scored tokens: (batch, 2).

    Every labelled token is scored, or with the mask `scored` (batch, n) those of them that it marks.
    """
    labelled = labels != IGNORED
    counted = labelled if scored is None else labelled & scored
    correct = (logits.argmax(-1) == labels) & counted
    return torch.stack([correct.sum(1), counted.sum(1)], 1).float()


def sum_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum for each example the negative log-likelihoods of its labels, in nats, and count them: (batch, 2)."""
    nll = F.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="none")
    return torch.stack([nll.sum(1), (labels != IGNORED).sum(1).float()], 1)
