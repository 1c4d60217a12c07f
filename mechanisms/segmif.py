"""SegMiF's interactive attention (Liu et al., arXiv 2308.02097): queries read a softmax over the channels of k^T v.

    context = softmax over the channels of k (k^T v / sqrt(dim)),   out_i = context^T q_i

In each head context is a matrix (dim, value_dim) whose columns sum to one. Its entries are no shares of keys: more
keys make its softmax sharper, and the output is linear in q. The authors leave the queries unprojected, as a layer does
whose projection of queries is the identity.

- NC and CC are the paper's, where two modalities read each other. A row uses its own query alone.
- NS (ours) reads its own tokens. CS (ours) has a context for each token, of the tokens up to it, which
  backward computes again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cab import Mechanism, Pattern
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import outer_sum
from cab.ops.ragged import zero_masked

Maybe = Tensor | None
SEGMENT = 128  # tokens whose contexts are held at once


class Segmif(Mechanism):
    """Queries read one softmax over the channels of the keys, for each channel of the values."""

    patterns = {"NS": "extension", "CS": "extension", "NC": "native", "CC": "native"}
    paper = "arXiv 2308.02097"
    titles = (
        "Multi-interactive Feature Learning and a Full-time Multi-modality Benchmark for Image Fusion and Segmentation",
    )
    cost = "O((n + m) d^2)"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Sum once (NS, NC, CC), or up to each token (CS)."""
        if self.slot.pattern is Pattern.CS:
            return self.step(self.init_state(k[:, :, :0], v[:, :, :0]), q, k, v, key_mask)[0]
        return self._read(q, self._sums(k, v, key_mask))

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write the softmax out; in CS, row by row."""

        def context(count: int) -> Tensor:
            weights = (torch.einsum("bhjd,bhje->bhde", k[:, :, :count], v[:, :, :count]) / self.slot.dim**0.5).exp()
            return weights / weights.sum(2, keepdim=True)

        if self.slot.pattern is Pattern.CS:
            return torch.cat([q[:, :, [i]] @ context(i + 1) for i in range(q.shape[2])], 2)
        return q @ context(k.shape[2])

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count one read of each query, and one addition of each key, which is elementwise in CS."""
        added = 0 if self.slot.pattern is Pattern.CS else m
        return 2.0 * self.slot.heads * (n + added) * self.slot.dim * self.slot.values

    def init_state(self, k: Tensor, v: Tensor, key_mask: Maybe = None) -> Any:
        """Sum over the source (CC), or over no token (CS): (batch, heads, dim, value_dim)."""
        return self._sums(k, v, key_mask)

    def step(
        self, state: Any, q: Tensor, k: Maybe = None, v: Maybe = None, key_mask: Maybe = None
    ) -> tuple[Tensor, Any]:
        """Read the sums (CC), or those up to each new token (CS)."""
        if k is None or v is None:
            return self._read(q, state), state
        k, v = zero_masked(k, key_mask).to(state.dtype), v.to(state.dtype)
        rows = []
        for tokens in zip(*(t.split(SEGMENT, 2) for t in (q, k, v)), strict=True):
            # backward computes the contexts again: kept, they would take dim value_dim numbers a token and head
            out, state = checkpoint(self._running, *tokens, state, use_reentrant=False, preserve_rng_state=False)
            rows.append(out)
        return torch.cat(rows, 2), state

    def _running(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        sums = (k.unsqueeze(4) * v.unsqueeze(3)).cumsum(2) + state.unsqueeze(2)
        return self._read(q.unsqueeze(3), sums).squeeze(3), sums[:, :, -1]

    def _sums(self, k: Tensor, v: Tensor, mask: Maybe) -> Tensor:
        k, v = zero_masked(k, mask).to(at_least_float32(k)), v.to(at_least_float32(v))
        with full_precision(v.device.type):
            return outer_sum(k, v)

    def _read(self, q: Tensor, sums: Tensor) -> Tensor:
        context = (sums * self.slot.dim**-0.5).softmax(-2)
        return q @ context.to(q.dtype)
