"""Attention to a memory bank of limited size: of the source, `keep` tokens at most are read, and all queries read them.

    o_i = sum over j in S of softmax_(j in S)(q_i . k_j / sqrt(dim)) v_j

`policy` names the tokens of S:

- `recent` (SAM 2, arXiv 2408.00714): the last `keep` real tokens;
- `score` (SAMURAI, arXiv 2411.11922): the last `keep` whose input `score` is above `threshold`. SAMURAI's scores say
  whether the mask, the object and the motion of a frame were right. A score has no gradient;
- `random` (MAMBA, arXiv 2401.09923): `keep` tokens without replacement. In training they are drawn at every call, the
  same places for the whole batch. In evaluation places are taken in an order that was drawn at construction.

The bank is the source: what is written to it, and what is thrown out between calls, is the model's.

- NC and CC are the papers'. Which tokens are read does not depend on the queries.
- NS and CS are refused.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism
from cab.ops.cache import empty_cache, extend_cache, visible_in_cache
from cab.ops.softmax import softmax_attention
from cab.ops.top_k import top_k

Maybe = Tensor | None


class MemoryBank(Mechanism):
    """Softmax attention to some tokens of the source, which are chosen before any query is read."""

    patterns = {"NC": "native", "CC": "native"}
    refuses = {
        "NS": "a bank is another sequence than the one that reads it",
        "CS": "a bank is another sequence than the one that reads it; attention to the last tokens is `local`",
    }
    paper = "arXiv 2401.09923"
    titles = (
        "MAMBA: Multi-level Aggregation via Memory Bank for Video Object Detection",
        "SAMURAI: Adapting Segment Anything Model for Zero-Shot Visual Tracking with Motion-Aware Memory",
    )
    cost = "O(n b d + m log m)"
    inputs = {"score": ("keys", "real", 1, {"policy": "score"})}
    grouped = True
    accepts = {"policy": ("recent", "score", "random"), "keep": ">= 1"}
    checks = (
        {"keep": 5},
        {"policy": "score", "keep": 9, "threshold": 0.2},
        {"policy": "random", "keep": 7},
    )
    limits = (
        {"params": {"keep": 1000}, "equals": "softmax"},
        {"params": {"policy": "random", "keep": 1000}, "equals": "softmax"},
    )
    exempt = {
        "learning:score": "a token is chosen by its score, and not weighed (arXiv 2411.11922)",
        "modes": "policy=random draws tokens in training (arXiv 2401.09923)",
    }

    order: Tensor | None

    def __init__(self, slot: Any, *, policy: str = "recent", keep: int = 128, threshold: float = 0.5) -> None:
        super().__init__(slot)
        self.policy, self.keep, self.threshold = policy, keep, threshold
        self.register_buffer("order", torch.randperm(slot.keys) if policy == "random" else None)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, **inputs: Tensor
    ) -> Tensor:
        """Take the chosen keys and values out, and attend to them."""
        (keys, values), seen = self._bank(k, v, key_mask, **inputs)
        return softmax_attention(q, keys, values, None if seen is None else seen[:, None, None])

    def reference(self, q: Tensor, k: Tensor, v: Tensor, **inputs: Tensor) -> Tensor:
        """List the places that are read."""
        places, group = list(range(k.shape[2])), q.shape[1] // k.shape[1]
        if self.policy == "score":
            places = [j for j in places if inputs["score"][0, j] > self.threshold]
        if self.order is not None:
            places = sorted(places, key=self.order.tolist().__getitem__, reverse=True)
        places = places[-self.keep :]
        k, v = (t[:, :, places].repeat_interleave(group, 1) for t in (k, v))
        return (q @ k.mT / self.slot.dim**0.5).softmax(-1) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count two products over the chosen keys."""
        return 2.0 * self.slot.heads * n * min(self.keep, m) * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Maybe = None, **inputs: Tensor) -> Any:
        """Keep the chosen keys and values alone."""
        bank, seen = self._bank(k, v, key_mask, **inputs)
        return extend_cache(empty_cache(*(t[:, :, :0] for t in bank)), bank, seen)[0]

    def step(
        self, state: Any, q: Tensor, k: Maybe = None, v: Maybe = None, key_mask: Maybe = None, **inputs: Any
    ) -> tuple[Tensor, Any]:
        """Attend to what is kept."""
        return softmax_attention(q, *state[0], visible_in_cache(state)), state

    def _bank(self, k: Tensor, v: Tensor, key_mask: Maybe, score: Maybe = None) -> tuple[Any, Maybe]:
        """Return the chosen keys and values, and which of them count, (batch, keep)."""
        m, seen = k.shape[2], key_mask
        priority = torch.arange(m, device=k.device)
        if self.order is not None:
            priority = -(torch.rand(m, device=k.device) if self.training else self.order[:m])
        if score is not None:
            chosen = score.detach().squeeze(-1) > self.threshold
            seen = chosen if seen is None else chosen & seen
        priority = priority.to(torch.float32).expand(k.shape[0], -1)
        places, counts = top_k(priority, self.keep, seen)
        index = places[:, None, :, None]
        return tuple(t.gather(2, index.expand(-1, t.shape[1], -1, t.shape[3])) for t in (k, v)), counts
