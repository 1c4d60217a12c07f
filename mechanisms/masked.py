"""Softmax attention under a mask of a catalogue: `mask` names the rule by which query i sees key j.

Positions alone: `window` (StreamingLLM), `spans` (MoA; the search for spans is left out), `shifted` (S2-Attn, and with
shift=.25 and sinks=4 SF-Attn, which is reconstructed from descriptions), `tile` (Efficient-vDiT, provisional: which
frames are references is not said; here every `every`-th), `frames_channels` (MFCCA), `soft_causal` (iLLaMA; its weights
after the softmax are ours before it, as e^score times 1 or `soft`, whose schedule over training is a constant).

Ids of tokens: `groups` (DSTA), `space` and `tubes` (attention along one axis; SAMWISE's tubes), `frame_causal`
(TC-LLaVA, provisional: its equation was not at hand), `modality_mutual` (AKI), `subject` (Ouroboros-Diffusion,
provisional: its rule for segments was not at hand), `selection` (ShowUI, whose share of each component is rounded
otherwise). A user's own rule is `./file.py:name`. The formulas stand in `cab.ops.masks`.

Whether a pair is seen never depends on q or k. In CS, a rule that knows no order is cut by j <= i. `frame_causal`,
`modality_mutual` and `soft_causal` let a row see later tokens by design, as may a user's: what their authors call a
causal model is graded leaky in CS, and has no steps. A row that sees no key is zero. In cross patterns a query stands
at the place of the source that is the same share of the longest one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Unsupported
from cab.contracts.mechanism import Mechanism
from cab.errors import unknown
from cab.ops import kernels
from cab.ops.masks import CATALOGUE, Pairs, users_rule
from cab.ops.pairwise import Pairwise
from cab.ops.precision import at_least_float32
from cab.ops.softmax import masked_softmax, repeat_heads, softmax_attention


class Masked(Pairwise):
    """Every query weighs the keys that a rule lets it see."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"mask": "shifted", "shift": {"not": 0.5}}, {"mask": "shifted", "sinks": {"not": 0}})
    paper = "arXiv 2309.17453"
    titles = (
        "SinkLoRA: Enhanced Efficiency and Chat Capabilities for Long-Context Large Language Models",
        "MoA: Mixture of Sparse Attention for Automatic Large Language Model Compression",
        "Adapting LLaMA Decoder to Vision Transformer",
        "SAMWISE: Infusing wisdom in SAM2 for Text-Driven Video Segmentation",
        "Efficient-vDiT: Efficient Video Diffusion Transformers With Attention Tile",
        "ShowUI: One Vision-Language-Action Model for GUI Visual Agent",
        "TC-LLaVA: Rethinking the Transfer from Image to Video Understanding with Temporal Considerations",
        "Ouroboros-Diffusion: Exploring Consistent Content Generation in Tuning-free Long Video Diffusion",
        "Seeing is Understanding: Unlocking Causal Attention into Modality-Mutual Attention for Multimodal LLMs",
        "Video-Based Human Pose Regression via Decoupled Space-Time Aggregation",
        "Generative AI Beyond LLMs: System Implications of Multi-Modal Generation",
        "Automatic channel selection and spatial feature integration for multi-channel speech recognition "
        "across various array topologies",
    )
    cost = "O(n m d)"
    inputs = {
        "group": ("both", "id", {"mask": "groups"}),
        "frame": ("both", "sorted", {"mask": ("space", "frame_causal", "subject")}),
        "cell": ("both", "id", {"mask": "tubes"}),
        "modality": ("both", "index", 3, {"mask": "modality_mutual"}),
        "subject": ("keys", "index", 8, {"mask": "subject"}),
        "component": ("keys", "id", {"mask": "selection"}),
    }
    grouped = True
    accepts = {
        "window": ">= 1",
        "sinks": ">= 0",
        "shift": ">= 0, <= 1",
        "frame_size": ">= 1",
        "frames": ">= 0",
        "every": ">= 1",
        "soft": ">= 0, <= 1",
    }
    checks = (
        {"mask": "window", "window": 3, "sinks": 2},
        {"mask": "spans", "window": 2, "sinks": 1},
        {"mask": "shifted", "window": 6, "sinks": 0},
        {"mask": "shifted", "window": 4, "sinks": 2, "shift": 0.25},
        {"mask": "tile", "frame_size": 3, "every": 4},
        {"mask": "frames_channels", "frame_size": 4, "frames": 1},
        {"mask": "soft_causal", "soft": 0.3, "patterns": ["NS", "CS"]},
        {"mask": "groups"},
        {"mask": "space"},
        {"mask": "tubes"},
        {"mask": "frame_causal", "patterns": ["NS", "CS"]},
        {"mask": "modality_mutual", "patterns": ["NS", "CS"]},
        {"mask": "subject"},
        {"mask": "selection", "every": 2},
    )
    limits = (
        {"params": {"mask": "window", "window": 1000000000}, "equals": "softmax"},
        {"params": {"mask": "spans", "growths": [1.0], "window": 1}, "equals": "softmax", "patterns": ["CS"]},
        {"params": {"mask": "shifted", "window": 2000, "shift": 0.0}, "equals": "softmax"},
        {"params": {"mask": "tile", "every": 1}, "equals": "softmax"},
        {"params": {"mask": "soft_causal", "soft": 1.0}, "equals": "softmax", "patterns": ["NS"]},
    )

    def __init__(
        self,
        slot: Any,
        *,
        mask: str = "window",
        window: int = 128,
        sinks: int = 4,
        shift: float = 0.5,
        growths: Any = (0.25, 0.5, 0.75, 1.0),
        frame_size: int = 16,
        frames: int = 2,
        every: int = 4,
        soft: float = 0.5,
    ) -> None:
        super().__init__(slot)
        self.mask, self.window, self.sinks, self.shift, self.growths = mask, window, sinks, shift, growths
        self.frame_size, self.frames, self.every, self.soft = frame_size, frames, every, soft
        if not growths or not all(isinstance(rate, int | float) and rate >= 0 for rate in growths):
            raise ValueError(f"growths={growths}: a list of numbers of at least 0, one for each head or fewer")
        pattern, self.ids = slot.pattern.value, ()
        if ":" in mask:
            self.rule, ahead = users_rule(mask, slot.max_len, slot.keys)
            self.grade = "leaky" if pattern == "CS" and ahead else "extension"
        elif mask in CATALOGUE:
            self.rule, self.ids, grades = CATALOGUE[mask]
            if pattern not in grades:
                raise Unsupported(f"mask={mask} does not support {pattern}: a query has no place among a source's keys")
            self.grade = "extension" if mask == "soft_causal" and not soft else grades[pattern]
        else:
            raise ValueError(str(unknown("mask", mask, [*CATALOGUE, "./file.py:name"])))
        self.past_only = self.past_only and self.grade != "leaky"

    def keep(self, k: Tensor, v: Tensor, position: Tensor, **ids: Tensor) -> tuple[Tensor, ...]:
        """Keep the ids of a token beside its key and value."""
        return k, v, *(ids[name][:, None, :, None] for name in self.ids)

    def read(self, q: Tensor, *kept: Tensor, seen: Any, position: Tensor, query_mask: Any, **ids: Tensor) -> Tensor:
        """Attend to what the rule shows."""
        k, v, *_ = kept
        shown = self._shown(position, kept, seen, ids)
        if shown.dtype is torch.bool:
            return softmax_attention(q, k, v, shown if seen is None else shown & seen)
        scores = (q * self.slot.dim**-0.5) @ repeat_heads(k, q.shape[1]).mT
        return masked_softmax(scores + shown.log().to(scores.dtype), seen) @ repeat_heads(v, q.shape[1])

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None, **ids: Tensor
    ) -> Tensor:
        """Compute with PyTorch's fused kernels."""
        shown, seen = self._of_all(q, k, v, key_mask, ids)
        if shown.dtype is torch.bool:
            shown = shown if seen is None else shown & seen
        else:
            shown = shown.log().to(q.dtype)
            shown = shown if seen is None else shown.masked_fill(~seen, -torch.inf)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=shown, enable_gqa=k.shape[1] != q.shape[1])

    def attend_flex(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None, **ids: Tensor
    ) -> Tensor:
        """Compute the blocks that hold a pair that is seen with PyTorch's flex_attention."""
        attention, create_block_mask = kernels.flex(q.device.type)
        shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        shown, seen = self._of_all(q, k, v, key_mask, ids)
        pairs = (shown > 0 if seen is None else (shown > 0) & seen).expand(shape)
        block_mask = create_block_mask(lambda b, h, i, j: pairs[b, h, i, j], *shape, device=q.device)
        part = None if shown.dtype is torch.bool else shown.log().expand(shape)
        score = None if part is None else lambda score, b, h, i, j: score + part[b, h, i, j]
        out: Tensor = attention(q, k, v, score, block_mask, enable_gqa=k.shape[1] != q.shape[1])
        return out

    def use(self, backend: str) -> Mechanism:
        """Refuse flex_attention where PyTorch does not have it."""
        if backend == "flex" and (reason := kernels.flex_refusal(self.slot)):
            raise Unsupported(reason)
        return super().use(backend)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, **ids: Tensor) -> Tensor:
        """Head by head and query by query, the softmax over the keys that it sees."""
        n, m = q.shape[2], k.shape[2]
        shown, _ = self._of_all(q, k, v, None, ids)
        share, out = shown.to(q.dtype).expand(1, self.slot.heads, n, m)[0], q.new_zeros(*q.shape[:3], v.shape[3])
        for head in range(self.slot.heads):
            key_head = head * k.shape[1] // self.slot.heads
            for i in range(n):
                keys = [j for j in range(i + 1 if self.past_only else m) if share[head, i, j]]
                scores = k[0, key_head, keys] @ q[0, head, i] / self.slot.dim**0.5
                out[0, head, i] = (scores + share[head, i, keys].log()).softmax(0) @ v[0, key_head, keys]
        return out

    def flops_needed(self, n: int, m: int) -> float:
        """Count the pairs that are seen; where ids decide, those that may be."""
        if self.ids:
            return super().flops_needed(n, m)
        i, j = torch.arange(n, device="cpu"), torch.arange(m, device="cpu")
        shown = self.rule(self._pairs(i, j, (), None, {}, torch.float32), self)
        shown = (shown > 0).expand(1, self.slot.heads, n, m)
        pairs = int((shown.tril() if self.past_only else shown).sum())
        return self.pair_flops * pairs / self.slot.heads

    def _of_all(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any, ids: Any) -> tuple[Tensor, Tensor | None]:
        """Return what the rule shows of a whole sequence, and what else says that a key is seen."""
        seen, position = self.seen(q, k, v, key_mask, **ids), torch.arange(q.shape[2], device=q.device)
        return self._shown(position, self.keep_all(k, v, **ids), seen, self.of_queries(ids)), seen

    def _shown(self, position: Tensor, kept: Any, seen: Tensor | None, ids: dict[str, Tensor]) -> Tensor:
        """Return what the rule says of each pair, broadcastable to (batch, heads, queries, keys)."""
        k, _, *others = kept
        j = torch.arange(k.shape[2], device=k.device)
        return self.rule(self._pairs(position, j, others, seen, ids, at_least_float32(k)), self)

    def _pairs(self, position: Tensor, j: Tensor, others: Any, seen: Tensor | None, ids: Any, dtype: Any) -> Pairs:
        return Pairs(
            i=(position * self.slot.keys // self.slot.max_len).view(-1, 1, position.shape[-1], 1),
            j=j,
            own={name: ids[name][:, None, :, None] for name in self.ids if name in ids},
            other={name: t.mT for name, t in zip(self.ids, others, strict=False)},
            real=None if seen is None else seen[..., -1:, :],
            heads=self.slot.heads,
            cross=self.slot.pattern.cross,
            dtype=dtype,
        )
