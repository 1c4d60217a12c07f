"""Synthesizer (Tay et al., arXiv 2005.00743): the softmax of logits that do not depend on the keys, times v.

Logits of query i over the positions of the source, by `kind`:

- dense (section 3.2): W2 relu(W1 x_i) + b2. W1 is the layer's own projection to q, so this is W2 relu(q_i) + b2.
- random (3.3): a learned table, with one row for each position of a query and one column for each of the source.
- factorised (3.4.2): a product of two learned tables with `rank` columns each.

`mixture` adds the logits of softmax attention, q_i k_j / sqrt(dim) (3.5; the tables' scale stands in for the mixing
weights). Without it, random and factorised read v alone. Tables are as long as the slot; a shorter sequence uses their
first rows and columns, and CS masks the columns after the row's own. A row depends on its own query or position alone,
so CC equals NC. In a cross pattern a column stands for a position of the source, whichever token is there.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.softmax import masked_softmax, visible

KINDS = ("dense", "random", "factorised")


class Synthesizer(Mechanism):
    """Every query weighs positions, not keys."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2005.00743"
    cost = "O(n m d)"
    reads = (("qkv", {"mixture": True}), ("qv", {"kind": "dense"}), "v")
    accepts = {"rank": ">= 1"}
    checks = (
        {"kind": "dense"},
        {"kind": "random"},
        {"kind": "factorised", "rank": 3, "mixture": True},
    )
    limits = (
        {"params": {"kind": "random", "mixture": True}, "weights": {"table": 0.0}, "equals": "softmax"},
        {"params": {"kind": "random"}, "weights": {"table": 0.0}, "equals": "mean"},
    )

    def __init__(self, slot: Any, *, kind: str = "dense", rank: int = 8, mixture: bool = False) -> None:
        super().__init__(slot)
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: {', '.join(KINDS)}")
        self.kind, self.mixture = kind, mixture
        heads, dim, queries, keys = slot.heads, slot.dim, slot.max_len, slot.keys
        if kind == "dense":
            self.second = nn.Parameter(torch.empty(heads, dim, keys).uniform_(-(dim**-0.5), dim**-0.5))
            self.bias = nn.Parameter(torch.zeros(heads, 1, keys))
        elif kind == "random":
            self.table = nn.Parameter(torch.randn(heads, queries, keys))
        else:
            self.rows = nn.Parameter(torch.randn(heads, queries, rank) * rank**-0.25)
            self.columns = nn.Parameter(torch.randn(heads, rank, keys) * rank**-0.25)

    def attend(
        self,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Write the whole (queries, keys) matrix of weights."""
        m = v.shape[2]
        if q is not None:
            n = q.shape[2]
        else:
            assert query_mask is not None  # always given where q is not read
            n = query_mask.shape[1]
        logits = self._logits(q, torch.arange(n, device=v.device)[None], m)
        if q is not None and k is not None:
            logits = logits + (q * self.slot.dim**-0.5) @ k.transpose(-1, -2)
        return masked_softmax(logits, visible(self.slot.pattern, n, m, key_mask, v.device)) @ v

    def reference(self, q: Tensor | None, k: Tensor | None, v: Tensor, query_mask: Tensor | None = None) -> Tensor:
        """Write the logits of `kind`, add those of softmax attention (`mixture`), and divide each row by its sum."""
        m = v.shape[2]
        n = q.shape[2] if q is not None else m if query_mask is None else query_mask.shape[1]
        if self.kind == "random":
            logits = self.table[None, :, :n, :m]
        elif self.kind == "factorised":
            logits = (self.rows @ self.columns)[None, :, :n, :m]
        elif q is not None:
            logits = (q.clamp(min=0) @ self.second + self.bias)[..., :m]
        if q is not None and k is not None:
            logits = logits + q @ k.mT / self.slot.dim**0.5
        weights = logits.exp().tril() if self.slot.pattern is Pattern.CS else logits.exp()
        return weights / weights.sum(-1, keepdim=True) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the product of each logit, in all n m pairs, and one product with v.

        A factorised table is one product for the whole batch; it is counted for each sample.
        """
        dim = self.slot.dim
        logit = {"dense": dim, "random": 0}.get(self.kind, self.rows.shape[2] if self.kind == "factorised" else 0)
        return 2.0 * self.slot.heads * n * m * (logit + (dim if self.mixture else 0) + self.slot.values)

    def init_state(self, k: Tensor | None, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return keys, values, the mask of the real ones, their positions, and the number of queries so far."""
        batch, m = v.shape[0], v.shape[2]
        real = torch.ones(batch, m, dtype=torch.bool, device=v.device) if key_mask is None else key_mask
        position = torch.arange(m, device=v.device).expand(batch, -1)
        keys = v[..., :0] if k is None else k
        return keys, v, real, position, torch.zeros(batch, 1, dtype=torch.long, device=v.device)

    def step(
        self,
        state: Any,
        q: Tensor | None,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Append the new tokens (CS); take the logits of each query at the positions of the keys."""
        keys, values, real, position, count = state
        if key_mask is None:
            tokens = q if q is not None else v
            assert tokens is not None  # in CC, where q is not read, key_mask tells how many queries there are
            key_mask = torch.ones(values.shape[0], tokens.shape[2], dtype=torch.bool, device=values.device)
        query_position = count + key_mask.cumsum(1) - 1
        if v is not None:
            keys = torch.cat([keys, v[..., :0] if k is None else k], 2)
            values = torch.cat([values, v], 2)
            real = torch.cat([real, key_mask], 1)
            position = torch.cat([position, query_position.clamp(min=0)], 1)
        logits = self._logits(q, query_position.clamp(min=0), self.slot.keys)
        index = position[:, None, None, :].expand(-1, logits.shape[1], logits.shape[2], -1)
        logits = logits.expand(values.shape[0], -1, -1, -1).gather(3, index)
        if q is not None and self.mixture:
            logits = logits + (q * self.slot.dim**-0.5) @ keys.transpose(-1, -2)
        seen = real[:, None, None, :]
        if v is not None:
            seen = seen & (position[:, None, None, :] <= query_position[:, None, :, None])
        out = masked_softmax(logits, seen) @ values
        return out, (keys, values, real, position, count + key_mask.sum(1, keepdim=True))

    def _logits(self, q: Tensor | None, position: Tensor, m: int) -> Tensor:
        """Return the logits of queries at positions (batch or 1, n) over the first m positions of the source."""
        if self.kind == "dense":
            assert q is not None
            return q.relu() @ self.second[:, :, :m] + self.bias[:, :, :m]
        if self.kind == "random":
            return self.table[:, :, :m][:, position].transpose(0, 1)
        return self.rows[:, position].transpose(0, 1) @ self.columns[:, :, :m]
