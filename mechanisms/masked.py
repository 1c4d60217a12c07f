"""Softmax attention under a mask of a catalogue: `mask` names the rule by which query i sees key j.

- `window` (StreamingLLM, arXiv 2309.17453): |i - j| <= window, or j is one of the first `sinks` keys. In cross patterns
  a query stands at the place of the source that is the same share of the longest one.
- `groups` (DSTA, arXiv 2403.19926): the ids of i and j in the input `group` are equal.
- `frame_causal` (TC-LLaVA, arXiv 2409.03206, provisional: its equation was not at hand): j <= i, or `frame` is equal.
- `modality_mutual` (AKI, arXiv 2503.02597): j <= i, or in the input `modality` i is of an image (1) and j of the
  question about it (2); 0 stands for all else.

Whether a pair is seen depends on positions and on what the task says of tokens, never on q or k. In CS, a rule that
knows no order is cut by j <= i. The last two rules let a row see later tokens by design: what their authors call a
causal model is graded leaky in CS, and has no steps. A row that sees no key is zero.

A further mask is an entry of `MASKS`, its ids in `inputs`, and an entry of `checks`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Unsupported
from cab.ops.pairwise import Pairwise
from cab.ops.softmax import softmax_attention

IMAGE, QUESTION = 1, 2  # of the input `modality`


def in_window(self: Any, i: Tensor, j: Tensor, own: None, other: None) -> Tensor:
    """See what is near, and the sinks."""
    return ((self.place(i) - j).abs() <= self.window) | (j < self.sinks)


def in_group(self: Any, i: Tensor, j: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """See the members of the query's group."""
    return own == other


def past_or_in_frame(self: Any, i: Tensor, j: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """See the past, and all of the query's frame."""
    return (j <= i) | (own == other)


def past_or_question(self: Any, i: Tensor, j: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """See the past, and from an image the question."""
    return (j <= i) | ((own == IMAGE) & (other == QUESTION))


# the rule, of positions and ids that broadcast to (batch, 1, queries, keys), and the patterns that have it
MASKS: dict[str, Any] = {
    "window": (in_window, {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}),
    "groups": (in_group, {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}),
    "frame_causal": (past_or_in_frame, {"NS": "native", "CS": "leaky"}),
    "modality_mutual": (past_or_question, {"NS": "native", "CS": "leaky"}),
}


class Masked(Pairwise):
    """Every query weighs the keys that a rule lets it see."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2309.17453"
    cost = "O(n m d)"
    inputs = {
        "group": ("both", "id", {"mask": "groups"}),
        "frame": ("both", "sorted", {"mask": "frame_causal"}),
        "modality": ("both", "index", 3, {"mask": "modality_mutual"}),
    }
    grouped = True
    accepts = {"mask": ("window", "groups", "frame_causal", "modality_mutual"), "window": ">= 1", "sinks": ">= 0"}
    checks = (
        {"mask": "window", "window": 3, "sinks": 2},
        {"mask": "groups"},
        {"mask": "frame_causal", "patterns": ["NS", "CS"]},
        {"mask": "modality_mutual", "patterns": ["NS", "CS"]},
    )
    limits = ({"params": {"mask": "window", "window": 1000000000}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, mask: str = "window", window: int = 128, sinks: int = 4) -> None:
        super().__init__(slot)
        (self.rule, grades), pattern = MASKS[mask], slot.pattern.value
        if pattern not in grades:
            raise Unsupported(f"mask={mask} does not support {pattern}: a query has no place among a source's keys")
        self.grade, self.window, self.sinks, self.limited = grades[pattern], window, sinks, mask == "window"
        self.past_only = self.past_only and self.grade != "leaky"

    def keep(self, k: Tensor, v: Tensor, position: Tensor, **ids: Tensor) -> tuple[Tensor, ...]:
        """Keep the id of a token beside its key and value."""
        return k, v, *(t[:, None, :, None] for t in ids.values())

    def read(self, q: Tensor, *kept: Tensor, seen: Any, position: Tensor, query_mask: Any, **ids: Tensor) -> Tensor:
        """Attend to what the rule shows."""
        return softmax_attention(q, *kept[:2], self._shown(position, kept, seen, ids))

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None, **ids: Tensor
    ) -> Tensor:
        """Compute with PyTorch's fused kernels."""
        position, seen = torch.arange(q.shape[2], device=q.device), self.seen(q, k, v, key_mask)
        shown = self._shown(position, self.keep_all(k, v, **ids), seen, self.of_queries(ids))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=shown, enable_gqa=k.shape[1] != q.shape[1])

    def reference(self, q: Tensor, k: Tensor, v: Tensor, **ids: Tensor) -> Tensor:
        """Head by head and query by query, the softmax over the keys that it sees."""
        n, m = q.shape[2], k.shape[2]
        shown = self._shown(torch.arange(n, device=q.device), self.keep_all(k, v, **ids), None, self.of_queries(ids))
        shown, out = shown.expand(1, 1, n, m)[0, 0], q.new_zeros(*q.shape[:3], v.shape[3])
        for head in range(self.slot.heads):
            key_head = head * k.shape[1] // self.slot.heads
            for i in range(n):
                keys = [j for j in range(i + 1 if self.past_only else m) if shown[i, j]]
                scores = k[0, key_head, keys] @ q[0, head, i] / self.slot.dim**0.5
                out[0, head, i] = scores.softmax(0) @ v[0, key_head, keys]
        return out

    def flops_needed(self, n: int, m: int) -> float:
        """Count the pairs that are seen; where ids decide, those that may be."""
        if not self.limited:
            return super().flops_needed(n, m)
        place = self.place(torch.arange(n))
        first, end = (place - self.window).clamp(0, m), (place + self.window + 1).clamp(max=m)
        if self.past_only:
            return self.pair_flops * int((place + 1 - first + first.clamp(max=self.sinks)).sum())
        sinks_outside = first.clamp(max=self.sinks) + (min(self.sinks, m) - end).clamp(min=0)
        return self.pair_flops * int(((end - first).clamp(min=0) + sinks_outside).sum())

    def place(self, i: Tensor) -> Tensor:
        """Return where queries i stand among the keys."""
        return i * self.slot.keys // self.slot.max_len

    def _shown(self, position: Tensor, kept: Any, seen: Tensor | None, ids: dict[str, Tensor]) -> Tensor:
        """Return where queries see keys, broadcastable to (batch, heads, queries, keys)."""
        k, _, *others = kept
        own, other = (next(iter(ids.values()))[:, None, :, None], others[0].mT) if ids else (None, None)
        i, j = position.view(-1, 1, position.shape[-1], 1), torch.arange(k.shape[2], device=k.device)
        shown: Tensor = self.rule(self, i, j, own, other)
        return shown if seen is None else shown & seen
