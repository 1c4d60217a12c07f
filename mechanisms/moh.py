"""Mixture of heads (Jin et al., arXiv 2410.11842) around any mechanism: o_h g_h(x_i) in place of o_h, head by head.

The first heads are shared and always count; of the others, the routed ones, only the k that a router scores highest
for the token x_i do (equations 5 to 7):

    shared: g = a_1 H_s softmax(W_s x)_h        [a_1, a_2] = 2 softmax(W_a x)
    routed: g = a_2 k p_h / (sum of the selected p), p = softmax(W_r x); 0 where h is not selected

In training `aux_loss` is `balance` times E^2 mean_h(P_h f_h), over the E routed heads: P_h is the mean of p_h over the
real tokens, f_h the share of them that select h. A gate depends on the token of its own query alone, so the patterns
are those of the mechanism inside. A softmax over one head is 1, and has no weights. As in the authors' own code, every
head is computed, also where its gate is 0: a kernel that skips those would save its share of the cost.
"""

from math import ceil, floor
from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Wrapper
from cab.ops.precision import at_least_float32, wide_linear
from cab.ops.top_k import top_k_mask

ROUNDING = 1e-9  # 0.7 * 10 is a little more than 7


class Moh(Wrapper):
    """Every token weighs the heads of the mechanism inside, and switches some of them off."""

    paper = "arXiv 2410.11842"
    titles = ("MoH: Multi-Head Attention as Mixture-of-Head Attention",)
    cost = "O(n D h) beside the inner mechanism"
    inputs = {"x": ("queries", "real", "width")}
    accepts = {"shared": ">= 0, <= 1", "active": ">= 0, <= 1", "balance": ">= 0"}
    checks = ({"shared": 0.0, "active": 0.5}, {"shared": 0.5, "active": 1.0})
    limits = (
        {"params": {"shared": 0.0, "active": 1.0}, "weights": {"routed.weight": 0.0}, "equals": "softmax"},
        {"params": {"shared": 0.5, "active": 1.0}, "weights": {"kinds.weight": 0.0}, "equals": "softmax"},
    )

    def __init__(
        self, slot: Any, *, inner: Mechanism, shared: float = 0.5, active: float = 0.75, balance: float = 0.01
    ) -> None:
        super().__init__(slot, inner=inner)
        self.shared_heads = floor(shared * slot.heads + ROUNDING)
        active_heads = ceil(active * slot.heads - ROUNDING)
        self.routed_heads, self.selected = slot.heads - self.shared_heads, active_heads - self.shared_heads
        if shared > active:
            raise ValueError(f"shared={shared}, active={active}: the shared heads are among the active ones")
        if self.routed_heads and not self.selected:
            raise ValueError(f"shared={shared}, active={active}: of {slot.heads} heads no routed one is ever selected")
        self.balance = balance

        def router(size: int) -> nn.Linear | None:
            return nn.Linear(slot.tokens, size, bias=False) if size > 1 else None

        self.shared, self.routed = router(self.shared_heads), router(self.routed_heads)
        self.kinds = router(2 if self.shared_heads and self.routed_heads else 0)

    def around(self, *attends: Any, q: Any, k: Any, v: Any, key_mask: Any, query_mask: Any, x: Tensor) -> Tensor:
        """Weigh the heads' outputs."""
        out: Tensor = attends[0](q, k, v)
        return out * self._gates(x, query_mask).transpose(1, 2).unsqueeze(-1).to(out.dtype)

    def reference_around(
        self, *attends: Any, q: Any, k: Any, v: Any, key_mask: Any, query_mask: Any, x: Tensor
    ) -> Tensor:
        """Write equations 5 to 7, and choose the routed heads of each token by sorting."""
        sizes = (self.shared, self.shared_heads), (self.routed, self.routed_heads)
        shared, p = (x.new_ones(1, x.shape[1], n) if w is None else wide_linear(w, x).softmax(-1) for w, n in sizes)
        a = x.new_ones(2, 1, x.shape[1], 1)
        if self.kinds is not None:
            a = 2 * wide_linear(self.kinds, x).softmax(-1).unsqueeze(0).permute(3, 1, 2, 0)
        selected = torch.zeros_like(p)
        for token, scores in enumerate(p[0].tolist()):
            best = sorted(range(len(scores)), key=lambda head: (-scores[head], head))[: self.selected]
            selected[0, token, best] = 1.0
        routed = self.selected * p * selected / (p * selected).sum(-1, keepdim=True)
        gates = torch.cat([a[0] * self.shared_heads * shared, a[1] * routed], -1)
        out: Tensor = attends[0](q, k, v)
        return out * gates.mT.unsqueeze(-1).to(out.dtype)

    def own_flops(self, n: int, m: int) -> float:
        """Count the routers."""
        routers = (self.shared, self.routed, self.kinds)
        return 2.0 * n * self.slot.tokens * sum(router.out_features for router in routers if router is not None)

    def _gates(self, x: Tensor, query_mask: Tensor | None) -> Tensor:
        """Return the weight of each head for each token, (batch, n, heads)."""
        share = self._softmax(self.routed, x, self.routed_heads)
        selected = top_k_mask(share, self.selected).to(share.dtype)
        if self.training and self.routed is not None and self.balance:
            real = torch.ones_like(share[..., :1]) if query_mask is None else query_mask.unsqueeze(-1).to(share.dtype)
            tokens = real.sum().clamp(min=1)
            probability, load = ((t * real).sum((0, 1)) / tokens for t in (share, selected))
            self.aux_loss = self.balance * self.routed_heads**2 * (probability * load).mean()
        routed = self.selected * share * selected / (share * selected).sum(-1, keepdim=True)
        shared = self.shared_heads * self._softmax(self.shared, x, self.shared_heads)
        kinds = 2 * self._softmax(self.kinds, x, 2) if self.kinds is not None else torch.ones_like(x[..., :2])
        return torch.cat([kinds[..., :1] * shared, kinds[..., 1:] * routed], -1)

    def _softmax(self, router: nn.Linear | None, x: Tensor, size: int) -> Tensor:
        """Score the heads in float32, so that rounding selects no other ones."""
        if router is None:
            return x.new_ones(*x.shape[:2], size, dtype=at_least_float32(x))
        return wide_linear(router, x).softmax(-1)
