"""Gated convolution, MambaOut's mixer (Yu and Wang, arXiv 2405.07992): a gated network with a convolution inside.

    y = W_2 (GELU(g) * [i; conv(c)]),   [g; i; c] = W_1 x

W_1 leads to h channels for the gate g and h for i and c; h is `expansion` (8 / 3) times the width of the tokens, and c
has `share` times the width. conv is depth-wise, over `conv` places along each axis. There are no queries, keys or
values: the block is Mamba's without its state space. The norm before it and the sum with x are the backbone's.

- NS: native on images; sequences and volumes are ours. Masked tokens count as zero.
- CS (ours): conv runs over the last `conv` tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern, Unsupported
from cab.ops.channels import heads_of
from cab.ops.raster_convolution import RasterConvolution
from cab.ops.short_convolution import ShortConvolution


class GatedConv(Mechanism):
    """Tokens mix with their neighbours in a part of a gated network."""

    patterns = {"NS": "native", "CS": "extension"}
    ours = ({"axes": (1, 3)},)
    refuses = {
        "NC": "it has no queries: each output stands where its token stands",
        "CC": "it has no queries: each output stands where its token stands",
    }
    paper = "arXiv 2405.07992"
    cost = "O(n D^2)"
    parity = "timm (GatedConvBlock)"
    titles = ("MambaOut: Do We Really Need Mamba for Vision?",)
    reads = ""
    inputs = {"y": ("keys", "real", "width")}
    rasters = {"NS": (1, 2, 3)}
    accepts = {"expansion": "> 0", "conv": "odd, >= 1", "share": "> 0"}
    checks = ({}, {"conv": 3, "expansion": 1.5, "share": 0.5})

    def __init__(self, slot: Any, *, expansion: float = 2.6667, conv: int = 7, share: float = 1.0) -> None:
        super().__init__(slot)
        hidden, convolved = int(expansion * slot.tokens), int(share * slot.tokens)
        if not 1 <= convolved <= hidden:
            given = f"share={share}, expansion={expansion}"
            raise Unsupported(f"{given}: of {hidden} channels, {convolved} cannot be convolved")
        self.sizes = hidden, hidden - convolved, convolved
        self.inner, self.outer = nn.Linear(slot.tokens, 2 * hidden), nn.Linear(hidden, slot.heads * slot.values)
        self.bias = nn.Parameter(torch.zeros(convolved))
        self.conv: RasterConvolution | ShortConvolution = (
            ShortConvolution(1, convolved, conv)
            if slot.pattern is Pattern.CS
            else RasterConvolution(1, convolved, conv, len(slot.raster or (slot.max_len,)))
        )

    def attend(
        self, q: None, k: None, v: None, key_mask: Tensor | None = None, query_mask: Tensor | None = None, *, y: Tensor
    ) -> Tensor:
        """Convolve what stands around each token, or what came before it."""
        if isinstance(self.conv, ShortConvolution):
            return self.step(self.init_state(None, None, y=y), None, None, None, key_mask, y=y)[0]
        gate, plain, convolved = self.inner(y).split(self.sizes, -1)
        raster = self.slot.raster or (y.shape[1],)
        return self._gated(gate, plain, self.conv(convolved.unsqueeze(1), raster, key_mask))

    def reference(
        self, q: None, k: None, v: None, key_mask: Tensor | None = None, query_mask: Tensor | None = None, *, y: Tensor
    ) -> Tensor:
        """Add up the neighbours of each token."""
        gate, plain, c = (y @ self.inner.weight.T + self.inner.bias).split(self.sizes, -1)
        if isinstance(self.conv, RasterConvolution):
            c = self.conv.definition(c.unsqueeze(1), self.slot.raster or (y.shape[1],), key_mask).squeeze(1)
        else:
            taps = self.conv.kernel[:, 0].unbind(1)
            before = F.pad(c, (0, 0, len(taps) - 1, 0))
            c = sum(tap * before[:, place : place + c.shape[1]] for place, tap in enumerate(taps))
        hidden = gate * (1 + torch.erf(gate / 2**0.5)) / 2 * torch.cat([plain, c + self.bias], -1)
        return (hidden @ self.outer.weight.T + self.outer.bias).unflatten(2, (self.slot.heads, -1)).transpose(1, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count both linear maps and the convolution."""
        return 2.0 * n * (self.inner.weight.numel() + self.outer.weight.numel() + self.conv.kernel.numel())

    def init_state(self, k: None, v: None, key_mask: Tensor | None = None, *, y: Tensor) -> Any:
        """Return zeros as the last tokens."""
        assert isinstance(self.conv, ShortConvolution)
        return self.conv.init_state(y.new_zeros(len(y), 1, 0, self.sizes[2]))

    def step(
        self, state: Any, q: None, k: None = None, v: None = None, key_mask: Tensor | None = None, *, y: Tensor
    ) -> tuple[Tensor, Any]:
        """Convolve the new tokens after the last ones."""
        assert isinstance(self.conv, ShortConvolution)
        gate, plain, convolved = self.inner(y).split(self.sizes, -1)
        near, state = self.conv.step(convolved.unsqueeze(1), state.to(convolved.dtype), key_mask)
        return self._gated(gate, plain, near), state

    def _gated(self, gate: Tensor, plain: Tensor, near: Tensor) -> Tensor:
        hidden = F.gelu(gate) * torch.cat([plain, near.squeeze(1) + self.bias], -1)
        return heads_of(self.outer(hidden), self.slot.heads)
