"""Nyströmformer (Xiong et al., arXiv 2102.03902): softmax attention through a few landmarks, F1 pinv(A) (F2 v).

The landmarks Q~ and K~ are the means of `landmarks` segments of the queries and of the keys (equation 13 and section
4). F1 = softmax(q K~^T), A = softmax(Q~ K~^T), F2 = softmax(Q~ k^T), each of scores over sqrt(dim). pinv(A) is
approximated by a fixed number of steps of the paper's iteration (equation 11). Here:

- The iteration begins for each head of each sample alone. Some other implementations begin it with one number for the
  whole batch.
- Of L real tokens, a segment holds floor(L / landmarks) or one more; nothing is padded. With no more keys than
  landmarks every key is a landmark, and the result is softmax attention.
- NS adds the paper's depth-wise convolution over v, with one kernel for each head. NC and CC have none, as no value has
  the position of a query.
- NC: Q~ comes from the queries and K~ from the keys, in the same formula.
- CC: a landmark of the queries would hold later ones, so the keys' landmarks stand for both, Q~ := K~. Then a row reads
  its own query and the source. It is another estimator of the same matrix, hence an extension.
- CS is impossible: F2 and pinv(A) mix all positions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.segments import segment_means
from cab.ops.softmax import masked_softmax


class Nystrom(Mechanism):
    """Queries attend to landmarks, landmarks attend to all keys, and a pseudo-inverse stands between the two."""

    patterns = {"NS": "native", "NC": "extension", "CC": "extension"}
    refuses = {"CS": "every landmark, and the inverse of their weights, mixes all positions"}
    paper = "arXiv 2102.03902"
    parity = "nystrom-attention, transformers"
    cost = "O((n + m) r d + r^3)"
    accepts = {"iterations": ">= 1", "conv": "0 or odd, >= 1"}
    checks = ({"landmarks": 5, "conv": 3}, {"landmarks": 16, "conv": 0, "iterations": 2})
    limits = ({"params": {"landmarks": 61, "conv": 0}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, landmarks: int = 64, conv: int = 65, iterations: int = 6) -> None:
        super().__init__(slot)
        # in CC the keys' landmarks stand for the queries' too
        most, tokens = (slot.keys, "keys") if slot.pattern is Pattern.CC else (slot.max_len, "queries")
        if not 1 <= landmarks <= most:
            raise ValueError(f"landmarks={landmarks}: from 1 to the {most} {tokens} of the slot")
        self.landmarks, self.iterations = landmarks, iterations
        self.conv = 0 if slot.pattern.cross else conv
        if self.conv:
            self.kernel = nn.Parameter(torch.empty(slot.heads, 1, conv, 1).uniform_(-(conv**-0.5), conv**-0.5))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Multiply from right to left, so that no product is larger than (queries, landmarks)."""
        q = q * self.slot.dim**-0.5
        q_landmarks = None if self.slot.pattern is Pattern.CC else segment_means(q, query_mask, self.landmarks)
        out = self._attend_landmarks(q, *self._keys_and_values(q_landmarks, k, v, key_mask))
        return out + self._convolved(v, key_mask) if self.conv else out

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute equation 13 with the pseudo-inverse of equation 11; softmax attention where keys are few."""

        def landmarks(t: Tensor) -> Tensor:
            short, long_count = divmod(t.shape[2], self.landmarks)
            sizes = [short] * (self.landmarks - long_count) + [short + 1] * long_count
            return torch.stack([segment.mean(2) for segment in t.split(sizes, 2) if segment.shape[2]], 2)

        def weights(q: Tensor, k: Tensor) -> Tensor:
            return (q @ k.mT / self.slot.dim**0.5).softmax(-1)

        if k.shape[2] <= self.landmarks:
            out = weights(q, k) @ v
        else:
            k_landmarks = landmarks(k)
            q_landmarks = k_landmarks if self.slot.pattern is Pattern.CC else landmarks(q)
            a = weights(q_landmarks, k_landmarks)
            inverse = a.mT / (a.sum(-2).amax(-1) * a.sum(-1).amax(-1))[..., None, None]
            one = torch.eye(a.shape[-2], dtype=a.dtype, device=a.device)
            for _ in range(self.iterations):
                product = a @ inverse
                inverse = inverse @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
            out = weights(q, k_landmarks) @ inverse @ weights(q_landmarks, k) @ v
        if self.conv:
            padded = F.pad(v, (0, 0, self.conv // 2, self.conv // 2))
            out = out + sum(self.kernel[:, :, tap] * padded[:, :, tap : tap + v.shape[2]] for tap in range(self.conv))
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the scores and sums of queries, landmarks and keys, the pseudo-inverse, and the convolution."""
        dim, size, r = self.slot.dim, self.slot.values, self.landmarks
        pairs = n * r * (dim + size) + n * self.conv * size
        if m > r:
            pairs += m * r * (dim + size) + r * r * (dim + size) + self.iterations * 4 * r**3
        return 2.0 * self.slot.heads * pairs

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the landmarks of the source as keys, which of them exist, and their values (CC)."""
        k_landmarks, exists, values = self._keys_and_values(None, k, v, key_mask)
        if exists is None:
            exists = k_landmarks.new_ones(k_landmarks.shape[0], k_landmarks.shape[2], dtype=torch.bool)
        return k_landmarks, exists, values

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend to the landmarks."""
        return self._attend_landmarks(q * self.slot.dim**-0.5, *state), state

    def _keys_and_values(
        self, q_landmarks: tuple[Tensor, Tensor | None] | None, k: Tensor, v: Tensor, key_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the landmarks of the keys, which of them exist, and the value of each: pinv(A) F2 v.

        `q_landmarks` are those of the scaled queries, and which of them exist; None: the keys' landmarks, scaled.
        """
        k_landmarks, exists = segment_means(k, key_mask, self.landmarks)
        if k.shape[2] <= self.landmarks:
            return k_landmarks, exists, segment_means(v, key_mask, self.landmarks)[0]  # each landmark is a key
        if q_landmarks is None:
            q_landmarks = k_landmarks * self.slot.dim**-0.5, exists
        landmark_q, q_exists = q_landmarks
        values = masked_softmax(landmark_q @ k.transpose(-1, -2), _for_scores(key_mask)) @ v
        a = masked_softmax(landmark_q @ k_landmarks.transpose(-1, -2), _for_scores(exists))
        if q_exists is not None:
            a = a.masked_fill(~q_exists[:, None, :, None], 0.0)
        values = pseudo_inverse(a, self.iterations).to(v.dtype) @ values
        if key_mask is not None:
            few_keys = key_mask.sum(1) <= self.landmarks
            values = segment_means(v, key_mask, self.landmarks)[0].where(few_keys[:, None, None, None], values)
        return k_landmarks, exists, values

    def _attend_landmarks(self, q: Tensor, k_landmarks: Tensor, exists: Tensor | None, values: Tensor) -> Tensor:
        return masked_softmax(q @ k_landmarks.transpose(-1, -2), _for_scores(exists)) @ values

    def _convolved(self, v: Tensor, key_mask: Tensor | None) -> Tensor:
        if key_mask is not None:
            v = v.masked_fill(~key_mask[:, None, :, None], 0.0)
        return F.conv2d(v, self.kernel, padding=(self.conv // 2, 0), groups=v.shape[1])


def _for_scores(mask: Tensor | None) -> Tensor | None:
    """Give a mask of keys (batch, keys) the axes of scores (batch, heads, queries, keys)."""
    return None if mask is None else mask[:, None, None, :]


def pseudo_inverse(a: Tensor, iterations: int) -> Tensor:
    """Approximate the pseudo-inverses of row-stochastic matrices (..., rows, columns) by a third-order iteration."""
    a = a.to(at_least_float32(a))  # the steps amplify rounding errors of 16 bits
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    norms = a.sum(-2).amax(-1) * a.sum(-1).amax(-1)
    inverse = a.transpose(-1, -2) / norms.where(norms > 0, 1.0)[..., None, None]
    with full_precision(a.device.type):
        for _ in range(iterations):
            product = a @ inverse
            inverse = inverse @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
    return inverse
