"""The attention layer around a mechanism: input projections, rotary positions, heads, output projection.

Only those of q, k and v that the mechanism reads are projected. In self patterns the layer rotates q and k (rotary
positions, Su et al., arXiv 2104.09864, equation 34), unless the mechanism rotates them itself.
"""

from collections.abc import Mapping

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
        tensors: dict[str, Tensor] = {}
        for name, projection in self.projections.items():
            heads = slot.heads if name == "q" else slot.key_heads
            tokens = x if name == "q" else source
            tensors[name] = projection(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)
            if slot.rotary and not cross and name in "qk" and not mechanism.rotates:
                tensors[name] = rotated(tensors[name], slot.rotary)
        masks = {"key_mask": y_mask if cross else x_mask}
        if cross:
            masks["query_mask"] = x_mask
        if "q" not in mechanism.reads:  # then only the mask says how many queries there are
            name = "query_mask" if cross else "key_mask"
            if masks[name] is None:
                masks[name] = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        out = mechanism(**tensors, **masks, **self._inputs(x, source, inputs or {}))
        return self.out(out.to(x.dtype).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _inputs(self, x: Tensor, y: Tensor, offered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        offered = {**offered, "x": x, "y": y}
        missing = [name for name in self.mechanism.inputs if name not in offered]
        if missing:
            raise Unsupported(f"{type(self.mechanism).__name__} needs the input {missing[0]!r}; this task has none")
        return {name: offered[name] for name in self.mechanism.inputs}


def rotated(t: Tensor, base: float) -> Tensor:
    """Apply rotary positions to t (batch, heads, length, dim): rotate the channel pairs (i, i + dim // 2).

    `base` is the base of the frequencies. A last channel without a partner (dim odd) stays as it is.
    """
    half = t.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = torch.arange(t.shape[-2], device=t.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().to(t.dtype), angle.sin().to(t.dtype)
    first, second, rest = t[..., :half], t[..., half : 2 * half], t[..., 2 * half :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1)
