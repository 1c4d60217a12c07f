"""RCMHA (arXiv 2308.03429): softmax attention with relative positions, of convolved queries, keys and values.

Each of q, k and v first passes a convolution along the tokens, one kernel a channel, the same for all heads. Then

    weight_ij = softmax over j of ((q_i + u) . k_j + q_i . r_(j-i)) / sqrt(dim) + b_(j-i) / sqrt(dim)

with a vector u, and tables r and b of every distance, for each head, all zero at first. Rotary positions of the layer,
if there are any, turn q and k before the convolution, which is ours.

- CS is the paper's: the convolution looks back.
- NS (ours): the convolution looks to both sides, and the tables hold distances of both signs.
- NC and CC (ours): a query has no distance from a token of the source, so r and b are left out. The source is convolved
  to both sides; so are the queries in NC, and in CC they look back.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Pattern
from cab.ops.pairwise import Pairwise
from cab.ops.ragged import zero_masked
from cab.ops.short_convolution import ShortConvolution
from cab.ops.softmax import masked_softmax, repeat_heads

Mask = Tensor | None


class Rcmha(Pairwise):
    """Softmax attention with learned relative positions, after a short convolution."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"rotary": True},)
    paper = "arXiv 2308.03429"
    titles = ("RCMHA: Relative Convolutional Multi-Head Attention for Natural Language Modelling",)
    parity = "labml-nn"
    cost = "O(n m d)"
    grouped = True
    accepts = {"conv": "odd, >= 1"}
    checks = ({"conv": 3}, {"conv": 5})
    limits = (
        {
            "params": {"conv": 1},
            "weights": {
                "convs.0.kernel": 1.0,
                "convs.1.kernel": 1.0,
                "convs.2.kernel": 1.0,
                "convs.0.bias": 0.0,
                "convs.1.bias": 0.0,
                "convs.2.bias": 0.0,
                "u": 0.0,
                "r": 0.0,
                "b": 0.0,
            },
            "equals": "softmax",
        },
    )

    def __init__(self, slot: Any, *, conv: int = 3) -> None:
        super().__init__(slot)
        sizes, self.reach = (slot.dim, slot.dim, slot.values), conv // 2
        self.convs = nn.ModuleList(ShortConvolution(1, size, conv, bias=True) for size in sizes)
        self.u = nn.Parameter(torch.zeros(slot.heads, 1, slot.dim))
        if not slot.pattern.cross:  # row p holds distance j - i = p + 1 - max_len
            rows = slot.max_len if slot.pattern is Pattern.CS else 2 * slot.max_len - 1
            self.r = nn.Parameter(torch.zeros(slot.heads, rows, slot.dim))
            self.b = nn.Parameter(torch.zeros(slot.heads, rows))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None) -> Tensor:
        """Convolve, and attend."""
        q = self._convolved(0, zero_masked(q, query_mask), self.slot.pattern.causal)
        k, v = (self._convolved(i, zero_masked(t, key_mask), self.past_only) for i, t in ((1, k), (2, v)))
        return super().attend(q, k, v, key_mask, query_mask)

    def read(self, q: Tensor, k: Tensor, v: Tensor, *, seen: Mask, position: Tensor, query_mask: Mask) -> Tensor:
        """Attend by content and, in self patterns, by distance."""
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        scores = (q + self.u) @ k.mT
        if not self.slot.pattern.cross:
            most = k.shape[2] - 1  # the largest distance, of which both signs are in the rows from `first` to `last`
            first, last = self.slot.max_len - 1 - most, self.slot.max_len + (0 if self.past_only else most)
            of_distance = q @ self.r[:, first:last].mT + self.b[:, None, first:last]
            row = torch.arange(most, 2 * most + 1, device=q.device) - position.unsqueeze(-1)
            row = row.clamp(0, last - first - 1).view(-1, 1, *row.shape[-2:])  # what is clamped is not seen
            scores = scores + of_distance.gather(-1, row.expand(*scores.shape))
        return masked_softmax(scores * self.slot.dim**-0.5, seen) @ v

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Convolve tap by tap, and write the scores of one query after the other."""
        n, m, cross = q.shape[2], k.shape[2], self.slot.pattern.cross

        def convolved(i: int, t: Tensor, causal: bool) -> Tensor:
            width, back = self.convs[i].width, 2 * self.reach if causal else self.reach
            padded = F.pad(t, (0, 0, back, width - 1 - back))
            taps = [padded[:, :, p : p + t.shape[2]] * self.convs[i].kernel[:, 0, p] for p in range(width)]
            return torch.stack(taps).sum(0) + self.convs[i].bias

        q = convolved(0, q, self.slot.pattern.causal)
        k, v = (convolved(i, t, self.slot.pattern is Pattern.CS) for i, t in ((1, k), (2, v)))
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        rows = []
        for i in range(n):
            seen = i + 1 if self.slot.pattern is Pattern.CS else m
            query = q[:, :, i : i + 1]
            scores = (query + self.u) @ k[:, :, :seen].mT
            if not cross:
                first = self.slot.max_len - 1 - i
                scores = scores + query @ self.r[:, first : first + seen].mT + self.b[:, None, first : first + seen]
            rows.append((scores / self.slot.dim**0.5).softmax(-1) @ v[:, :, :seen])
        return torch.cat(rows, 2)

    def own_flops(self, n: int, m: int) -> float:
        """Count the convolutions."""
        of_keys = self.convs[1].flops(m) + self.convs[2].flops(m)
        return self.slot.heads * self.convs[0].flops(n) + self.slot.key_heads * of_keys

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count all pairs, and the product of every query with the tables."""
        rows = 0 if self.slot.pattern.cross else n if self.past_only else 2 * n - 1
        return super().flops(n, m) + 2.0 * self.slot.heads * n * rows * self.slot.dim

    def flops_needed(self, n: int, m: int) -> float:
        """Count the pairs that are seen; in self patterns each has a product with a table's row, too."""
        pairs = 0 if self.slot.pattern.cross else n * (n + 1) / 2 if self.past_only else n * m
        return super().flops_needed(n, m) + 2.0 * self.slot.heads * pairs * self.slot.dim

    def init_state(self, k: Tensor, v: Tensor, key_mask: Mask = None) -> Any:
        """Cache the convolved source (CC), or nothing yet (CS); with no last tokens to convolve."""
        source = (self._convolved(i, zero_masked(t, key_mask), False) for i, t in ((1, k), (2, v)))
        queries = k.new_zeros(len(k), self.slot.heads, 0, self.slot.dim)
        tokens = (queries,) if self.slot.pattern.cross else (queries, k, v)
        last = [conv.init_state(_one_head(t)) for conv, t in zip(self.convs, tokens, strict=False)]
        return super().init_state(*source, key_mask), last

    def step(self, state: Any, q: Tensor, k: Mask = None, v: Mask = None, key_mask: Mask = None) -> tuple[Tensor, Any]:
        """Convolve the new tokens after the last ones, and attend."""
        (pairs, last), tokens, after = state, [], []
        for conv, t, before in zip(self.convs, (q, k, v), last, strict=False):
            mask = None if key_mask is None else key_mask.repeat_interleave(t.shape[1], 0)
            convolved, end = conv.step(_one_head(t), before, mask)
            tokens.append(convolved.view_as(t))
            after.append(end)
        out, pairs = super().step(pairs, *tokens, key_mask=key_mask)
        return out, (pairs, after)

    def _convolved(self, i: int, t: Tensor, causal: bool) -> Tensor:
        x, conv = _one_head(t), self.convs[i]
        out = conv(x) if causal else conv(F.pad(x, (0, 0, 0, self.reach)))[:, :, self.reach :]
        return out.reshape(t.shape)


def _one_head(t: Tensor) -> Tensor:
    """Make samples of the heads of t (batch, heads, length, size): they share a kernel."""
    return t.flatten(0, 1).unsqueeze(1)
