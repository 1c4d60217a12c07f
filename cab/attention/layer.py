"""The attention layer around a mechanism: input projections, rotary positions, heads, output projection.

Only those of q, k and v that the mechanism reads are projected. In self patterns the layer rotates q and k (rotary
positions, Su et al., arXiv 2104.09864, equation 34), where the mechanism reads both and does not rotate them itself:
q alone, beside keys of the mechanism's own, would say where a query stands, and not how far from a key. q and k turn
before the mechanism maps them. Where a feature map, a convolution or a decay of channels follows, scores depend on more
than the distance: a mechanism that was published without that says so by its grade.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cab.contracts.mechanism import Mechanism
from cab.errors import Unsupported


class AttentionLayer(nn.Module):
    """Multi-head attention: x (batch, n, width), and in cross patterns y (batch, m, width), give (batch, n, width)."""

    def __init__(self, mechanism: Mechanism) -> None:
        super().__init__()
        slot = mechanism.slot
        self.mechanism = mechanism
        sizes = {"q": slot.heads * slot.dim, "k": slot.key_heads * slot.dim, "v": slot.key_heads * slot.values}
        self.projections = nn.ModuleDict({name: nn.Linear(slot.tokens, sizes[name]) for name in mechanism.reads})
        self.out = nn.Linear(slot.heads * slot.values, slot.tokens)

    def forward(
        self,
        x: Tensor,
        x_mask: Tensor | None = None,
        y: Tensor | None = None,
        y_mask: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Project, attend, project back.

        Masks are boolean, (batch, length), True = real token; None means that all tokens are real. `inputs` are the
        task's tensors by name. `ValueError` where y is missing in a cross pattern, or passed in a self pattern;
        `Unsupported` where the mechanism needs an input that the task does not have.
        """
        mechanism, slot = self.mechanism, self.mechanism.slot
        cross = slot.pattern.cross
        if cross != (y is not None):
            raise ValueError(f"y {'was given' if y is not None else 'is missing'} in {slot.pattern.title}")
        source = x if y is None else y
        tensors = {**self._projected(x, "q"), **self._projected(source, "kv")}
        masks = {"key_mask": y_mask if cross else x_mask}
        if cross:
            masks["query_mask"] = x_mask
        if "q" not in mechanism.reads:  # then only the mask says how many queries there are
            name = "query_mask" if cross else "key_mask"
            if masks[name] is None:
                masks[name] = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        out = mechanism(**tensors, **masks, **self._inputs(x, source, inputs or {}))
        return self._merged(out, x)

    @property
    def streams(self) -> bool:
        """Whether it can decode token by token."""
        return self.mechanism.streams and self.mechanism.slot.pattern.causal

    def init_state(self, x: Tensor, y: Tensor | None = None, y_mask: Tensor | None = None) -> Any:
        """Begin a stream: x (batch, 0, width) is what precedes the first token, y (batch, m, width) CC's source."""
        mechanism, cross = self.mechanism, self.mechanism.slot.pattern.cross
        source = x if y is None else y
        tensors = self._projected(source, "kv")
        if not cross and "q" not in mechanism.reads:
            y_mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        inputs = {name: t for name, t in self._inputs(x, source, {}).items() if mechanism.inputs[name].axis == "keys"}
        return mechanism.init_state(tensors.get("k"), tensors.get("v"), y_mask, **inputs), 0

    def step(self, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        """Take the next tokens x (batch, c, width); return their output, as `forward` has it, and the new state."""
        mechanism, cross = self.mechanism, self.mechanism.slot.pattern.cross
        state, start = state
        tensors = self._projected(x, "q" if cross else "qkv", start)
        mask = None if "q" in mechanism.reads else torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        inputs: dict[str, Any] = self._inputs(x, x, {})
        if cross:  # `init_state` has read those of the source
            inputs = {name: None if mechanism.inputs[name].axis == "keys" else t for name, t in inputs.items()}
        q, k, v = (tensors.get(name) for name in "qkv")
        out, state = mechanism.step(state, q, k, v, mask, **inputs)
        return self._merged(out, x), (state, start + x.shape[1])

    def _projected(self, tokens: Tensor, names: str, start: int = 0) -> dict[str, Tensor]:
        """Return those of q, k and v that are named and read, by heads; the first token has the position `start`."""
        mechanism, slot = self.mechanism, self.mechanism.slot
        leaves_it = not slot.pattern.cross and not mechanism.rotates and {"q", "k"} <= set(mechanism.reads)
        base = slot.rotary if leaves_it else None
        tensors: dict[str, Tensor] = {}
        for name, projection in self.projections.items():
            if name not in names:
                continue
            heads = slot.heads if name == "q" else slot.key_heads
            tensors[name] = projection(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)
            if base and name in "qk":
                tensors[name] = rotated(tensors[name], base, start)
        return tensors

    def _merged(self, out: Tensor, x: Tensor) -> Tensor:
        """Join the heads and project back to the width of x."""
        return self.out(out.to(x.dtype).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _inputs(self, x: Tensor, y: Tensor, offered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        offered = {**offered, "x": x, "y": y}
        missing = [name for name in self.mechanism.inputs if name not in offered]
        if missing:
            raise Unsupported(f"{type(self.mechanism).__name__} needs the input {missing[0]!r}; this task has none")
        return {name: offered[name] for name in self.mechanism.inputs}


def rotated(t: Tensor, base: float, start: int = 0) -> Tensor:
    """Apply rotary positions to t (batch, heads, length, dim): rotate the channel pairs (i, i + dim // 2).

    `base` is the base of the frequencies, `start` the position of the first token. A last channel without a partner
    (dim odd) stays as it is.
    """
    half = t.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = torch.arange(start, start + t.shape[-2], device=t.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().to(t.dtype), angle.sin().to(t.dtype)
    first, second, rest = t[..., :half], t[..., half : 2 * half], t[..., 2 * half :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1)
