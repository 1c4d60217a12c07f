"""Pair-wise cross attention (Zhu et al., DCAL, arXiv 2205.02151): in training another sample's keys distract.

In training a query attends by one softmax to the keys of its own sample and to all keys of another sample, the one
before it in the batch. So it learns to find what tells its sample apart. In evaluation, and where a batch holds one
sample, it is softmax attention. The paper draws pairs of images; NS is its pattern. In CS (ours) a query sees its own
sample's keys up to its own, and in NC and CC (ours) both samples' sources.
"""

import torch
from torch import Tensor

from cab.ops.pairwise import Pairwise
from cab.ops.softmax import softmax_attention

Maybe = Tensor | None


class Pwca(Pairwise):
    """Softmax attention which another sample joins in training."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2205.02151"
    cost = "O(n m d)"
    titles = ("Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object Re-Identification",)
    exact = True
    grouped = True
    exempt = {
        "modes": "in training the keys of another sample join",
        "batch_training": "in training the keys of another sample join",
    }

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Write the whole matrix of weights; in training, of twice as many keys."""
        batch, n, m = len(q), q.shape[2], k.shape[2]
        if not self.training or batch < 2:
            return super().attend(q, k, v, key_mask, query_mask)
        real = torch.ones(batch, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        own, other = self.seen(q, k, v, real), real.roll(1, 0)[:, None, None, :]
        assert own is not None  # there is a mask
        seen = torch.cat([own.expand(batch, 1, n, m), other.expand(batch, 1, n, m)], 3)
        k, v = (torch.cat([t, t.roll(1, 0)], 2) for t in (k, v))
        return softmax_attention(q, k, v, seen)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write softmax attention out: of one sample there is no other."""
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        weights = (q @ k.mT / self.slot.dim**0.5).exp()
        weights = weights.tril() if self.past_only else weights
        return weights / weights.sum(-1, keepdim=True) @ v
