"""Labels for the tokens of a sequence: the loss, and how many are right."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # cross-entropy's own: nothing is asked at this token


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Average the cross-entropy over all labelled tokens: logits (batch, n, classes), labels (batch, n)."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


def right_and_asked(logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> Tensor:
    """Count, for each example, the tokens that are right and those that are scored: (batch, 2).

    Scored are the labelled ones, with `counts` (batch, n) those of them that it marks.
    """
    scored = labels != IGNORED
    if counts is not None:
        scored = scored & counts
    right = (logits.argmax(-1) == labels) & scored
    return torch.stack([right.sum(1), scored.sum(1)], 1).float()
