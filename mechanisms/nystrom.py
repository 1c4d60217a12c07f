"""Nystromformer (Xiong et al., arXiv 2102.03902): softmax attention through a few landmarks, F1 pinv(A) (F2 v).

With landmarks Q~ and K~, the means of as many stretches of queries and of keys (equation 13 and section 4):
F1 = softmax(q K~^T), A = softmax(Q~ K~^T), F2 = softmax(Q~ k^T), each of scores over sqrt(dim). pinv(A) is
approximated by a fixed number of steps of the paper's iteration (equation 11), begun for each head of each sample
alone; some other implementations begin it with one number for the whole batch. Here:

- Of L real tokens, stretches hold floor(L / landmarks) or one token more; nothing is padded. A sample with no more
  keys than landmarks is softmax attention itself, as every key is a landmark.
- NS adds the paper's depth-wise convolution over v, one kernel a head. In NC and CC there is none: no value belongs to
  the place of a query.
- NC: Q~ from the queries and K~ from the keys, the same formula.
- CC: a landmark of queries would hold later ones, so the keys' landmarks stand for both, Q~ := K~. Then a row needs its
  own query alone. It is another estimator of the same matrix, hence an extension.
- CS is impossible: F2 and pinv(A) mix all positions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.precision import full_precision
from cab.ops.segments import segment_means
from cab.ops.softmax import masked_softmax


class Nystrom(Mechanism):
    """Queries read landmarks, landmarks read all keys, and a pseudo-inverse joins the two."""

    patterns = {"NS": "native", "NC": "extension", "CC": "extension"}
    refuses = {"CS": "every landmark, and the inverse of their weights, mixes all positions"}
    paper = "arXiv 2102.03902"
    cost = "O((n + m) r d + r^3)"
    checks = ({"landmarks": 5, "conv": 3}, {"landmarks": 16, "conv": 0, "iterations": 2})
    limits = ({"params": {"landmarks": 61, "conv": 0}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, landmarks: int = 64, conv: int = 65, iterations: int = 6) -> None:
        super().__init__(slot)
        # in CC the keys' landmarks stand for the queries' too
        most, of = (slot.keys, "keys") if slot.pattern is Pattern.CC else (slot.max_len, "queries")
        if not 1 <= landmarks <= most:
            raise ValueError(f"landmarks={landmarks}: from 1 to the {most} {of} of the slot")
        if conv < 0 or conv % 2 == 0 and conv:
            raise ValueError(f"conv={conv}: an odd width, or 0 for no convolution")
        if iterations < 1:
            raise ValueError(f"iterations={iterations}: at least 1 step towards the inverse is needed")
        self.landmarks, self.iterations = landmarks, iterations
        self.conv = 0 if slot.pattern.cross else conv
        if self.conv:
            self.kernel = nn.Parameter(torch.empty(slot.heads, 1, conv, 1).uniform_(-(conv**-0.5), conv**-0.5))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute from right to left, so that nothing is larger than (queries, landmarks)."""
        q = q * self.slot.dim**-0.5
        own = None if self.slot.pattern is Pattern.CC else segment_means(q, query_mask, self.landmarks)
        out = self._read(q, *self._gathered(own, k, v, key_mask))
        return out + self._convolved(v, key_mask) if self.conv else out

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Equations 11 and 13, head by head of each sample, without its masked tokens."""
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        for b in range(q.shape[0]):
            keys = range(k.shape[2]) if key_mask is None else key_mask[b].nonzero()[:, 0].tolist()
            queries = range(q.shape[2]) if query_mask is None else query_mask[b].nonzero()[:, 0].tolist()
            if not keys or not queries:
                continue
            for h in range(q.shape[1]):
                mine, theirs, values = q[b, h, list(queries)], k[b, h, list(keys)], v[b, h, list(keys)]
                if len(keys) <= self.landmarks:
                    mixed = self._weights(mine, theirs) @ values
                else:
                    to = self._stretches(theirs)
                    by = to if self.slot.pattern is Pattern.CC else self._stretches(mine)
                    middle = self._weights(by, to)
                    inverse = middle.T / (middle.sum(0).max() * middle.sum(1).max())
                    one = torch.eye(len(to), dtype=q.dtype, device=q.device)
                    for _ in range(self.iterations):
                        step = inverse @ (7 * torch.eye(len(by), dtype=q.dtype, device=q.device) - middle @ inverse)
                        step = inverse @ (15 * torch.eye(len(by), dtype=q.dtype, device=q.device) - middle @ step)
                        inverse = (13 * one - step @ middle) @ inverse / 4
                    mixed = self._weights(mine, to) @ inverse @ self._weights(by, theirs) @ values
                out[b, h] = out[b, h].index_copy(0, torch.tensor(list(queries), device=q.device), mixed)
        if self.conv:
            real = torch.ones_like(v[:, 0, :, 0]) if key_mask is None else key_mask.to(v.dtype)
            values = F.pad(v * real[:, None, :, None], (0, 0, self.conv // 2, self.conv // 2))
            for place in range(self.conv):
                out = out + self.kernel[:, :, place] * values[:, :, place : place + v.shape[2]]
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores and sums of queries, landmarks and keys, the inverse, and the convolution."""
        dim, size, r = self.slot.dim, self.slot.values, self.landmarks
        pairs = n * r * (dim + size) + n * self.conv * size
        if m > r:
            pairs += m * r * (dim + size) + r * r * (dim + size) + self.iterations * 4 * r**3
        return 2.0 * self.slot.heads * pairs

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Read the source through its landmarks: what is left is a few keys and values (CC)."""
        to, exists, values = self._gathered(None, k, v, key_mask)
        return to, to.new_ones(to.shape[0], to.shape[2], dtype=torch.bool) if exists is None else exists, values

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the landmarks."""
        return self._read(q * self.slot.dim**-0.5, *state), state

    def _gathered(
        self, own: tuple[Tensor, Tensor | None] | None, k: Tensor, v: Tensor, key_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the keys' landmarks, which of them exist, and the value of each: pinv(A) F2 v."""
        to, exists = segment_means(k, key_mask, self.landmarks)
        if k.shape[2] <= self.landmarks:
            return to, exists, segment_means(v, key_mask, self.landmarks)[0]  # each landmark is a key
        by, asks = (to * self.slot.dim**-0.5, exists) if own is None else own
        values = masked_softmax(by @ k.transpose(-1, -2), _over(key_mask)) @ v
        middle = masked_softmax(by @ to.transpose(-1, -2), _over(exists))
        if asks is not None:
            middle = middle.masked_fill(~asks[:, None, :, None], 0.0)
        values = pseudo_inverse(middle, self.iterations).to(v.dtype) @ values
        if key_mask is not None:
            few = key_mask.sum(1) <= self.landmarks
            values = segment_means(v, key_mask, self.landmarks)[0].where(few[:, None, None, None], values)
        return to, exists, values

    def _read(self, q: Tensor, to: Tensor, exists: Tensor | None, values: Tensor) -> Tensor:
        return masked_softmax(q @ to.transpose(-1, -2), _over(exists)) @ values

    def _convolved(self, v: Tensor, key_mask: Tensor | None) -> Tensor:
        if key_mask is not None:
            v = v.masked_fill(~key_mask[:, None, :, None], 0.0)
        return F.conv2d(v, self.kernel, padding=(self.conv // 2, 0), groups=v.shape[1])

    def _weights(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.T / self.slot.dim**0.5).softmax(-1)

    def _stretches(self, t: Tensor) -> Tensor:
        """Return the means of consecutive tokens (length, size), the longer stretches last."""
        short, longer = divmod(len(t), self.landmarks)
        sizes = [short] * (self.landmarks - longer) + [short + 1] * longer
        return torch.stack([part.mean(0) for part in t.split([size for size in sizes if size])])


def _over(mask: Tensor | None) -> Tensor | None:
    """Spread a mask (batch, length) over the last axis of scores."""
    return None if mask is None else mask[:, None, None, :]


def pseudo_inverse(a: Tensor, iterations: int) -> Tensor:
    """Approximate the pseudo-inverse of row-stochastic matrices by a third-order iteration, each begun alone."""
    a = a.to(torch.promote_types(a.dtype, torch.float32))  # the steps amplify what 16 bits round off
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    most = a.sum(-2).amax(-1) * a.sum(-1).amax(-1)
    inverse = a.transpose(-1, -2) / most.where(most > 0, 1.0)[..., None, None]
    with full_precision(a.device.type):
        for _ in range(iterations):
            product = a @ inverse
            inverse = inverse @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
    return inverse
