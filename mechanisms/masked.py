"""Softmax attention under a mask of a catalogue: `mask` names the rule by which query i sees key j.

- `window` (StreamingLLM, arXiv 2309.17453): |i - j| <= window, or j is one of the first `sinks` keys. In cross patterns
  query i stands at place floor(ratio i) of the source.
- `groups` (DSTA, arXiv 2403.19926): the ids of i and j in the input `group` are equal.
- `frame_causal` (TC-LLaVA, arXiv 2409.03206, provisional: its equation was not at hand): j <= i, or `frame` is equal.
- `modality_mutual` (AKI, arXiv 2503.02597): j <= i, or in the input `modality` i is of an image (1) and j of the
  question about it (2); 0 stands for all else.

Whether a pair is seen depends on positions and on what the task says of tokens, never on q or k. In CS, a rule that
knows no order is cut by j <= i. The last two rules let a row see later tokens by design: what their authors call a
causal model is graded leaky in CS, and has no steps. A row that sees no key is zero.

A further mask is an entry of `MASKS`, its ids in `inputs`, and an entry of `checks`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern, Unsupported
from cab.contracts.reads import TWIN
from cab.ops.cache import empty_cache, extend_cache, next_positions, visible_in_cache
from cab.ops.softmax import masked_softmax, repeat_heads

Real = Tensor | None  # a mask of real tokens
Ids = dict[str, tuple[Tensor, Tensor]]  # of the queries (batch, queries), of the keys (batch, keys)
IMAGE, QUESTION = 1, 2  # of the input `modality`
NO_ORDER = "a query has no place among the keys of a source"


@dataclass(frozen=True)
class Mask:
    """A rule, `sees(mechanism, i, j, **ids)`, and the patterns that have it.

    i is (queries, 1) or (batch, 1, queries, 1), j (keys,), and each of the ids is a pair: of the queries (batch, 1,
    queries, 1), of the keys (batch, 1, 1, keys). The result is True where i sees j, and broadcasts to (batch, heads,
    queries, keys). `pairs` counts the pairs that are seen, where they do not depend on ids.
    """

    sees: Callable[..., Tensor]
    grades: dict[str, str]
    refuses: str = ""  # why the other patterns are refused
    pairs: Callable[["Masked", int, int], int] | None = None


def _in_window(self: "Masked", i: Tensor, j: Tensor) -> Tensor:
    return ((self.place(i) - j).abs() <= self.window) | (j < self.sinks)


def _pairs_in_window(self: "Masked", n: int, m: int) -> int:
    place = self.place(torch.arange(n))
    first = (place - self.window).clamp(0, m)
    if self.slot.pattern is Pattern.CS:
        return int((place + 1 - first + first.clamp(max=self.sinks)).sum())
    end = (place + self.window + 1).clamp(max=m)
    return int(
        ((end - first).clamp(min=0) + first.clamp(max=self.sinks) + (min(self.sinks, m) - end).clamp(min=0)).sum()
    )


def _in_group(self: "Masked", i: Tensor, j: Tensor, group: tuple[Tensor, Tensor]) -> Tensor:
    return group[0] == group[1]


def _past_or_in_frame(self: "Masked", i: Tensor, j: Tensor, frame: tuple[Tensor, Tensor]) -> Tensor:
    return (j <= i) | (frame[0] == frame[1])


def _past_or_question(self: "Masked", i: Tensor, j: Tensor, modality: tuple[Tensor, Tensor]) -> Tensor:
    return (j <= i) | ((modality[0] == IMAGE) & (modality[1] == QUESTION))


MASKS = {
    "window": Mask(
        _in_window, {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}, pairs=_pairs_in_window
    ),
    "groups": Mask(_in_group, {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}),
    "frame_causal": Mask(_past_or_in_frame, {"NS": "native", "CS": "leaky"}, NO_ORDER),
    "modality_mutual": Mask(_past_or_question, {"NS": "native", "CS": "leaky"}, NO_ORDER),
}


class Masked(Mechanism):
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
    checks = (
        {"mask": "window", "window": 3, "sinks": 2, "ratio": 0.7},
        {"mask": "groups"},
        {"mask": "frame_causal", "patterns": ["NS", "CS"]},
        {"mask": "modality_mutual", "patterns": ["NS", "CS"]},
    )
    limits = ({"params": {"mask": "window", "window": 1000000000}, "equals": "softmax"},)

    def __init__(
        self, slot: Any, *, mask: str = "window", window: int = 128, sinks: int = 4, ratio: float = 1.0
    ) -> None:
        super().__init__(slot)
        if mask not in MASKS:
            raise ValueError(f"mask={mask!r}: one of {', '.join(MASKS)}")
        if window < 1 or sinks < 0 or ratio <= 0:
            raise ValueError(f"window={window}, sinks={sinks}, ratio={ratio}: at least 1, at least 0, above 0")
        self.mask, self.window, self.sinks, self.ratio = MASKS[mask], window, sinks, ratio
        if slot.pattern.value not in self.mask.grades:
            raise Unsupported(f"mask={mask} does not support {slot.pattern.value}: {self.mask.refuses}")
        self.grade = self.mask.grades[slot.pattern.value]
        self.cut = slot.pattern is Pattern.CS and self.grade != "leaky"  # to the past, whatever the rule says

    def place(self, i: Tensor) -> Tensor:
        """Return where queries i stand among the keys."""
        return (i.double() * self.ratio).floor().long() if self.slot.pattern.cross else i

    def sees(self, i: Tensor, j: Tensor, ids: Ids) -> Tensor:
        """Return where queries i, (queries,) or (batch, queries), see keys j (keys,); broadcasts as in `Mask`."""
        i = (i if i.dim() == 1 else i[:, None]).unsqueeze(-1)
        pairs = {name: (of_i[:, None, :, None], of_j[:, None, None]) for name, (of_i, of_j) in ids.items()}
        seen = self.mask.sees(self, i, j, **pairs)
        return seen & (j <= i) if self.cut else seen

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Real = None, query_mask: Real = None, **ids: Tensor
    ) -> Tensor:
        """Write the whole (queries, keys) matrix of weights."""
        return self._read(q, k, v, self._seen(q, k, key_mask, ids))

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Real = None, query_mask: Real = None, **ids: Tensor
    ) -> Tensor:
        """Compute with PyTorch's fused kernels."""
        seen = self._seen(q, k, key_mask, ids)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=k.shape[1] != q.shape[1])

    def reference(self, q: Tensor, k: Tensor, v: Tensor, **ids: Tensor) -> Tensor:
        """Head by head and query by query, the softmax over the keys that it sees."""
        j, out = torch.arange(k.shape[2]), q.new_zeros(*q.shape[:3], v.shape[3])
        for i in range(q.shape[2]):
            own = {name: (of_i[:, [i]], of_j) for name, (of_i, of_j) in self._ids(ids).items()}
            seen = self.sees(torch.tensor([i]), j, own).expand(1, self.slot.heads, 1, -1)
            for head in range(self.slot.heads):
                key_head, keys = head * k.shape[1] // self.slot.heads, j[seen[0, head, 0]]
                scores = k[0, key_head, keys] @ q[0, head, i] / self.slot.dim**0.5
                out[0, head, i] = scores.softmax(0) @ v[0, key_head, keys]
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over all n m pairs; what is hidden is computed."""
        return 2.0 * self.slot.heads * n * m * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """The pairs that are seen; where ids decide, those that may be."""
        pairs = n * (n + 1) // 2 if self.cut else n * m
        pairs = self.mask.pairs(self, n, m) if self.mask.pairs else pairs
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    @property
    def streams(self) -> bool:
        """Whether no row waits for later tokens."""
        return self.grade != "leaky"

    def init_state(self, k: Tensor, v: Tensor, key_mask: Real = None, **ids: Tensor) -> Any:
        """Cache the source with its ids (CC), or nothing yet (CS)."""
        if not self.streams:
            raise Unsupported("a mask that shows later tokens has no steps")
        none = k.new_zeros(k.shape[0], k.shape[2], dtype=torch.long)
        of_keys = list(ids.values()) if self.slot.pattern.cross else [none] * len(self.inputs)
        new = k, v, *(t[:, None, :, None] for t in of_keys)
        cache, _ = extend_cache(empty_cache(*(t[:, :, :0] for t in new)), new, key_mask)
        return cache, torch.zeros_like(cache[1])  # and the number of queries so far

    def step(
        self, state: Any, q: Tensor, k: Real = None, v: Real = None, key_mask: Real = None, **ids: Any
    ) -> tuple[Tensor, Any]:
        """Cache the new tokens (CS), and let each read what it sees of the cache."""
        cache, queries = state
        position = next_positions(((), queries), q.shape[2], key_mask)
        queries = queries + (q.shape[2] if key_mask is None else key_mask.sum(1))
        own = {name: t for name, t in ids.items() if not name.startswith(TWIN)}
        if k is not None and v is not None:
            cache, _ = extend_cache(cache, (k, v, *(t[:, None, :, None] for t in own.values())), key_mask)
        keys, values, *cached = cache[0]
        pairs = {name: (t, of_keys[:, 0, :, 0]) for (name, t), of_keys in zip(own.items(), cached, strict=True)}
        seen = self.sees(position, torch.arange(keys.shape[2], device=q.device), pairs)
        return self._read(q, keys, values, seen & visible_in_cache(cache, position if self.cut else None)), (
            cache,
            queries,
        )

    def _ids(self, ids: dict[str, Tensor]) -> Ids:
        return {name: (t, ids.get(TWIN + name, t)) for name, t in ids.items() if not name.startswith(TWIN)}

    def _seen(self, q: Tensor, k: Tensor, key_mask: Tensor | None, ids: dict[str, Tensor]) -> Tensor:
        i, j = (torch.arange(t.shape[2], device=t.device) for t in (q, k))
        seen = self.sees(i, j, self._ids(ids))
        return seen if key_mask is None else seen & key_mask[:, None, None]

    def _read(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen) @ v
