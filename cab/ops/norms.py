"""Norms of what each head computes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab.ops.precision import at_least_float32


class HeadNorm(nn.Module):
    """Layer norm over the last axis of (batch, heads, length, size), with a scale and a shift (size) for each head."""

    def __init__(self, heads: int, size: int, shift: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(heads, 1, size))
        self.shift = nn.Parameter(torch.zeros(heads, 1, size)) if shift else None

    def forward(self, t: Tensor) -> Tensor:
        """Normalise t (batch, heads, length, size)."""
        out = F.layer_norm(t, t.shape[-1:]) * self.scale
        return out if self.shift is None else out + self.shift


class GatedNorm(nn.Module):
    """RMS norm of each head's result times swish(x W): one scale (size) for all heads, a gate for each channel.

    So linear-time mechanisms finish a head (GLA, arXiv 2312.06635, section 4.4; gated DeltaNet, arXiv 2412.06464).
    """

    def __init__(self, width: int, heads: int, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.gate = nn.Linear(width, heads * size, bias=False)
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, out: Tensor, x: Tensor) -> Tensor:
        """Norm `out` (batch, heads, n, size), and gate it with x (batch, n, width). The dtype is that of the gate."""
        out = rms_norm(out, self.scale, self.eps)
        gate = torch.unflatten(F.silu(self.gate(x)), -1, (out.shape[1], -1)).transpose(1, 2)
        return (out * gate).to(gate.dtype)

    def flops(self, n: int) -> float:
        """Count the FLOPs of the gate for n tokens of one sequence."""
        return 2.0 * n * self.gate.weight.numel()


def rms_norm(t: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Return t / sqrt(mean of t^2 over the last axis + eps) * scale, computed in float32 at least."""
    dtype = at_least_float32(t)
    return F.rms_norm(t.to(dtype), scale.shape, scale.to(dtype), eps).to(t.dtype)
