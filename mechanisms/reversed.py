"""Reversed attention, DependencyViT's (Ding et al., arXiv 2304.03282): tokens choose who receives what they send.

Sender j spreads its value over the receivers i, by a softmax over them:

    y_i = sum_j softmax_i(q_i . k_j / sqrt(dim)) p_j m_j v_j
    p_j = softmax over heads of (W y_j / temperature),   m_j = sigmoid(W_2 GELU(W_1 y_j))

p and m are made of the sender's token y_j: p shares it out over the heads, m says how much of it is sent at all. So the
weights of a sender, summed over receivers and heads, are m_j. The paper calls the sender's projection the query, which
here is k, as it belongs to the source. In the paper m is multiplied by that of all layers before; here is the form of
one layer.

- NS: native. NC: of the same form; the source sends, the target receives.
- CS (ours): a sender reaches itself and later receivers, and receiver i takes the softmax over those up to i. So a
  sender may give more than m_j in all.
- CC is refused: a softmax over the queries holds later ones.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache, next_positions, visible_in_cache
from cab.ops.precision import at_least_float32
from cab.ops.softmax import FLOOR, masked_softmax, visible

Mask = Tensor | None


class Reversed(Mechanism):
    """Every key is shared out over the queries."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native"}
    refuses = {"CC": "the softmax runs over the queries, so that an output would depend on later ones"}
    paper = "arXiv 2304.03282"
    cost = "O(n m d)"
    titles = ("Visual Dependency Transformers: Dependency Tree Emerges from Reversed Attention",)
    inputs = {"y": ("keys", "real", "width")}
    accepts = {"temperature": "> 0"}
    checks = ({}, {"temperature": 2.0})

    def __init__(self, slot: Any, *, temperature: float = 0.1) -> None:
        super().__init__(slot)
        self.temperature, half = temperature, max(slot.tokens // 2, 1)
        self.heads = nn.Linear(slot.tokens, slot.heads, bias=False)
        self.message = nn.Sequential(nn.Linear(slot.tokens, half), nn.GELU(), nn.Linear(half, 1))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None, *, y: Tensor
    ) -> Tensor:
        """Write the whole (queries, keys) matrix of weights."""
        scores, sent = self._scores(q, k), self._sent(v, y, key_mask)
        if self.slot.pattern is Pattern.CS:
            seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
            assert seen is not None
            return self._running(scores, None, seen)[0].to(v.dtype) @ sent
        receives = None if query_mask is None else query_mask[:, None, None, :]
        return masked_softmax(scores.transpose(-1, -2), receives).transpose(-1, -2) @ sent

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None, *, y: Tensor
    ) -> Tensor:
        """Write every weight, for one sample."""
        scores = (q @ k.mT / self.slot.dim**0.5).exp()
        if self.slot.pattern is Pattern.CS:
            weights = scores.tril() / scores.tril().cumsum(2).where(scores.tril() > 0, 1.0)
        else:
            weights = scores / scores.sum(2, keepdim=True)
        share = (y @ self.heads.weight.mT / self.temperature).softmax(-1).mT.unsqueeze(2)  # (1, heads, 1, m)
        return weights * share * self.message(y).sigmoid().mT.unsqueeze(1) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count scores and sums over all n m pairs, and the shares and messages of the senders."""
        return self._pairs_flops(n * m) + self._sender_flops(m)

    def flops_needed(self, n: int, m: int) -> float:
        """In causal self attention, count the pairs on and below the diagonal alone."""
        return self._pairs_flops(n * (n + 1) // 2 if self.slot.pattern is Pattern.CS else n * m) + self._sender_flops(m)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Mask = None, *, y: Tensor) -> Any:
        """Cache nothing yet: keys, what they send, and the log-sums of their scores so far."""
        return empty_cache(k, v, k[..., :1].to(at_least_float32(k)))

    def step(
        self, state: Any, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, *, y: Tensor
    ) -> tuple[Tensor, Any]:
        """Cache the new tokens, and continue the softmax of every sender over the new receivers."""
        position = next_positions(state, q.shape[2], key_mask)
        new = k, self._sent(v, y, key_mask), torch.full_like(k[..., :1], FLOOR, dtype=at_least_float32(k))
        ((k, sent, log_sums), count), _ = extend_cache(state, new, key_mask)
        seen = visible_in_cache(((k,), count), position)
        if key_mask is not None:
            seen = seen & key_mask[:, None, :, None]
        weights, log_sums = self._running(self._scores(q, k), log_sums.transpose(-1, -2), seen)
        return weights.to(v.dtype) @ sent, ((k, sent, log_sums.transpose(-1, -2)), count)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * self.slot.dim**-0.5) @ k.transpose(-1, -2)

    def _sent(self, v: Tensor, y: Tensor, key_mask: Mask) -> Tensor:
        """Return p m v of every sender; nothing of a masked one."""
        share = F.softmax(self.heads(y) / self.temperature, -1) * self.message(y).sigmoid()
        sent = v * share.transpose(1, 2).unsqueeze(3).to(v.dtype)
        return sent if key_mask is None else sent.masked_fill(~key_mask[:, None, :, None], 0.0)

    def _running(self, scores: Tensor, log_sums: Mask, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the softmax of each sender over the receivers so far, and the log-sums at the end."""
        scores = scores.to(at_least_float32(scores)).masked_fill(~seen, FLOOR)
        before = torch.full_like(scores[:, :, :1], FLOOR) if log_sums is None else log_sums
        sums = torch.cat([before, scores], 2).logcumsumexp(2)
        return (scores - sums[:, :, 1:]).exp().masked_fill(~seen, 0.0), sums[:, :, -1:]

    def _pairs_flops(self, pairs: int) -> float:
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def _sender_flops(self, m: int) -> float:
        return 2.0 * m * sum(p.numel() for p in self.parameters() if p.dim() == 2)
