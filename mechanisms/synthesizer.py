"""Synthesizer (Tay et al., arXiv 2005.00743): softmax of logits that no key had a part in, times v.

Logits of query i over the places of the source, by `kind`:

- dense (section 3.2): W2 relu(W1 x_i) + b2. W1 is the layer's own projection to q, so this is W2 relu(q_i) + b2.
- random (3.3): a learned table, one row for each place of a query, one column for each place of the source.
- factorised (3.4.2): that table as a product of two of few columns, `rank`.

`mixture` adds the logits of softmax attention, q_i k_j / sqrt(dim) (3.5, with the mixing weights left to the tables'
scale). What a kind does not use is not read: random and factorised read v alone. Tables have one row or column a place
of the slot; a sequence takes the first ones, and CS cuts what lies ahead. A row uses its own query or its own place,
so CC equals NC. In a cross pattern a column stands for a place of the source, whatever is there.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.softmax import masked_softmax, visible

KINDS = ("dense", "random", "factorised")


class Synthesizer(Mechanism):
    """Every query weighs places, not keys."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2005.00743"
    cost = "O(n m d)"
    reads = (("qkv", {"mixture": True}), ("qv", {"kind": "dense"}), "v")
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
        if rank < 1:
            raise ValueError(f"rank={rank}: at least 1 column is needed")
        self.kind, self.mixture = kind, mixture
        heads, dim, most, keys = slot.heads, slot.dim, slot.max_len, slot.keys
        if kind == "dense":
            self.second = nn.Parameter(torch.empty(heads, dim, keys).uniform_(-(dim**-0.5), dim**-0.5))
            self.bias = nn.Parameter(torch.zeros(heads, 1, keys))
        elif kind == "random":
            self.table = nn.Parameter(torch.randn(heads, most, keys))
        else:
            self.rows = nn.Parameter(torch.randn(heads, most, rank) * rank**-0.25)
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

    def reference(
        self,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Row by row: the logits of one query, head by head, each exponential written out."""
        m, out = v.shape[2], []
        given = q if q is not None else query_mask[:, None] if query_mask is not None else v
        for i in range(given.shape[2]):
            rows = []
            for head in range(self.slot.heads):
                if self.kind == "dense":
                    assert q is not None
                    logits = q[:, head, i].clamp(min=0) @ self.second[head, :, :m] + self.bias[head, :, :m]
                elif self.kind == "random":
                    logits = self.table[head, i : i + 1, :m]
                else:
                    logits = (self.rows[head, i] @ self.columns[head, :, :m])[None]
                if q is not None and k is not None:
                    logits = logits + torch.einsum("bd,bjd->bj", q[:, head, i], k[:, head]) / self.slot.dim**0.5
                weights = logits.exp() * torch.ones_like(v[:, head, :, 0])
                if key_mask is not None:
                    weights = weights * key_mask
                if self.slot.pattern is Pattern.CS:
                    weights = weights * (torch.arange(m, device=v.device) <= i)
                total = weights.sum(-1, keepdim=True)
                rows.append(torch.einsum("bj,bjd->bd", weights / total.where(total > 0, 1.0), v[:, head]))
            out.append(torch.stack(rows, 1))
        return torch.stack(out, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The logits of all n m pairs, which are made once for all samples but in dense, and one product with v."""
        dim = self.slot.dim
        made = {"dense": dim, "random": 0}.get(self.kind, self.rows.shape[2] if self.kind == "factorised" else 0)
        return 2.0 * self.slot.heads * n * m * (made + (dim if self.mixture else 0) + self.slot.values)

    def init_state(self, k: Tensor | None, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep what is read of the source, which of it is real, each key's place, and how many queries there were."""
        batch, m = v.shape[0], v.shape[2]
        real = torch.ones(batch, m, dtype=torch.bool, device=v.device) if key_mask is None else key_mask
        place = torch.arange(m, device=v.device).expand(batch, -1)
        keys = v[..., :0] if k is None else k
        return keys, v, real, place, torch.zeros(batch, 1, dtype=torch.long, device=v.device)

    def step(
        self,
        state: Any,
        q: Tensor | None,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Append the new tokens (CS); give each query the logits of its own place, over the places of the keys."""
        keys, values, real, place, count = state
        if key_mask is None:
            given = q if q is not None else v
            assert given is not None  # in CC, where q is not read, key_mask tells how many queries there are
            key_mask = torch.ones(values.shape[0], given.shape[2], dtype=torch.bool, device=values.device)
        own = count + key_mask.cumsum(1) - 1
        if v is not None:
            keys = torch.cat([keys, v[..., :0] if k is None else k], 2)
            values = torch.cat([values, v], 2)
            real, place = torch.cat([real, key_mask], 1), torch.cat([place, own.clamp(min=0)], 1)
        logits = self._logits(q, own.clamp(min=0), self.slot.keys)
        index = place[:, None, None, :].expand(-1, logits.shape[1], logits.shape[2], -1)
        logits = logits.expand(values.shape[0], -1, -1, -1).gather(3, index)
        if q is not None and self.mixture:
            logits = logits + (q * self.slot.dim**-0.5) @ keys.transpose(-1, -2)
        seen = real[:, None, None, :]
        if v is not None:
            seen = seen & (place[:, None, None, :] <= own[:, None, :, None])
        out = masked_softmax(logits, seen) @ values
        return out, (keys, values, real, place, count + key_mask.sum(1, keepdim=True))

    def _logits(self, q: Tensor | None, place: Tensor, m: int) -> Tensor:
        """Return the logits of queries at places (batch or 1, n) over the first m places of the source."""
        if self.kind == "dense":
            assert q is not None
            return q.relu() @ self.second[:, :, :m] + self.bias[:, :, :m]
        if self.kind == "random":
            return self.table[:, :, :m][:, place].transpose(0, 1)
        return self.rows[:, place].transpose(0, 1) @ self.columns[:, :, :m]
