"""S4D, a diagonal state space (Gu et al., arXiv 2206.11893): each channel convolved with a sum of exponentials.

y = kappa * u + D u, with u the values and kappa_l = 2 Re sum over n of C_n (exp(Delta A_n) - 1) / A_n exp(l Delta A_n)
(zero-order hold, half of the conjugate pairs), then GELU. A begins as S4D-Lin (-1/2 + i pi n) or S4D-Inv (equations
8 and 9), Delta between 0.001 and 0.1. The linear layer after GELU is the attention layer's projection.

It has neither queries nor keys, so that it has no cross form. NS adds a kernel for what comes after. On a raster a
missing place counts as a step.
"""

from math import log, log2, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.diagonal_ssm import convolution_kernel, convolution_kernel_flops, fft_convolution, fft_points, final_state
from cab.ops.ragged import gather_tokens, real_first


class S4d(Mechanism):
    """A linear time-invariant filter a channel, as long as the sequence."""

    patterns = {"NS": "native", "CS": "native"}
    refuses = {
        "NC": "it has no queries: each output stands where its input stands",
        "CC": "it has no queries: each output stands where its input stands",
    }
    paper = "arXiv 2206.11893"
    cost = "O(n log n d)"
    reads = "v"
    checks = ({"states": 6}, {"states": 2, "init": "inv"})

    def __init__(self, slot: Any, *, states: int = 64, init: str = "lin") -> None:
        super().__init__(slot)
        if states < 2 or states % 2:
            raise ValueError(f"states={states}: an even number, at least 2, as they are conjugate pairs")
        if init not in ("lin", "inv"):
            raise ValueError(f"init={init!r}: lin (S4D-Lin) or inv (S4D-Inv)")
        self.pairs, self.both = states // 2, slot.pattern is Pattern.NS
        channels, n = slot.heads * slot.values, torch.arange(self.pairs)
        imaginary = pi * n if init == "lin" else states / pi * (states / (2 * n + 1) - 1)
        self.log_step = nn.Parameter(torch.empty(channels, 1).uniform_(log(0.001), log(0.1)))
        self.log_decay = nn.Parameter(torch.full((channels, self.pairs), log(0.5)))
        self.frequency = nn.Parameter(imaginary.repeat(channels, 1).float())
        # C, real and imaginary, of the kernel for what came and of the one for what comes
        self.out = nn.Parameter(torch.randn(2, 2 if self.both else 1, channels, self.pairs) * 0.5**0.5)
        self.skip = nn.Parameter(torch.randn(channels))

    def attend(
        self,
        q: None,
        k: None,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Convolve by FFT."""
        u = self._channels(v, key_mask)
        weight, exponent = self._system(u)
        kernels = convolution_kernel(weight, exponent, u.shape[2])
        return self._finished(fft_convolution(u, kernels if self.both else kernels[0], self.both), u, v)

    def reference(
        self,
        q: None,
        k: None,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Run the recurrence x_t = exp(Delta A) x_(t-1) + (exp(Delta A) - 1) / A u_t, token by token."""
        batch, heads, n, size = v.shape
        real = torch.ones(batch, n, dtype=torch.bool, device=v.device) if key_mask is None else key_mask
        u = (v * real[:, None, :, None]).transpose(2, 3).reshape(batch, heads * size, n)
        decay, angle = self.log_decay.exp(), self.frequency
        step = self.log_step.exp()
        fade, cos, sin = (-step * decay).exp(), (step * angle).cos(), (step * angle).sin()
        keep = fade * cos, fade * sin  # exp(Delta A), as its real and imaginary part
        square = decay**2 + angle**2  # (keep - 1) / A = (keep - 1) conjugate(A) / |A|^2
        take = (
            (-(keep[0] - 1) * decay + keep[1] * angle) / square,
            (-keep[1] * decay - (keep[0] - 1) * angle) / square,
        )
        y = u * self.skip[:, None]
        for way in range(self.out.shape[1]):
            x, rows = (torch.zeros_like(u[:, :, :1] * decay[None]),) * 2, []
            for t in reversed(range(n)) if way else range(n):
                if way:  # what comes begins with the next token
                    rows.append(self._observed(x, way))
                new = u[:, :, t, None]
                x = (
                    keep[0] * x[0] - keep[1] * x[1] + take[0] * new,
                    keep[0] * x[1] + keep[1] * x[0] + take[1] * new,
                )
                if not way:
                    rows.append(self._observed(x, way))
            y = y + torch.stack(rows[::-1] if way else rows, 2)
        y = y * (1 + torch.erf(y / 2**0.5)) / 2
        return y.reshape(batch, heads, size, n).transpose(2, 3)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The kernels, and three FFTs."""
        points = fft_points(n)
        fft = 5.0 * points * log2(points)
        ways = 2 if self.both else 1
        return self.slot.heads * self.slot.values * (3 * fft + ways * convolution_kernel_flops(self.pairs, n))

    def flops_needed(self, n: int, m: int) -> float:
        """Three FFTs of 2 n points, and a kernel of n places: two products a state."""
        points = 2.0 * n
        fft = 5.0 * points * log2(points)
        ways = 2 if self.both else 1
        return self.slot.heads * self.slot.values * (3 * fft + ways * 4.0 * self.pairs * n)

    def init_state(self, k: None, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Begin with a state of zeros: (batch, heads value_dim, pairs), complex."""
        u = self._channels(v, None)
        return torch.zeros(*u.shape[:2], self.pairs, dtype=u.dtype.to_complex(), device=u.device)

    def step(
        self,
        state: Any,
        q: None,
        k: None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Convolve the new tokens, the real ones of a row first, add what the state still says, and absorb them."""
        assert v is not None  # CS alone streams
        back, last, count = None, v, torch.full((1, 1, 1), v.shape[2], device=v.device)
        if key_mask is not None:
            order, back = real_first(key_mask)
            count = key_mask.sum(1)[:, None, None]
            hidden = v.masked_fill(~key_mask[:, None, :, None], 0.0)
            # real ones first to read, and last to absorb, where the zeros before them do nothing
            v, last = gather_tokens(hidden, order), gather_tokens(hidden, real_first(~key_mask)[0])
        u = self._channels(v, None)
        weight, exponent = self._system(u)
        y = fft_convolution(u, convolution_kernel(weight[0], exponent, u.shape[2]))
        y = y + convolution_kernel(weight[0] * state * exponent.exp(), exponent, u.shape[2])
        out = self._finished(y, u, v)
        state = (exponent * count).exp() * state + final_state(self._channels(last, None), exponent)
        return out if back is None else gather_tokens(out, back), state

    def _channels(self, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """(batch, heads value_dim, tokens), zero where masked, in float32 at least, as FFTs need."""
        if key_mask is not None:
            v = v.masked_fill(~key_mask[:, None, :, None], 0.0)
        return v.transpose(2, 3).flatten(1, 2).to(torch.promote_types(v.dtype, torch.float32))

    def _system(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return C (exp(Delta A) - 1) / A, (ways, channels, pairs), and Delta A, (channels, pairs)."""
        step, decay, frequency, out = (
            t.to(like.dtype) for t in (self.log_step, self.log_decay, self.frequency, self.out)
        )
        poles = torch.complex(-decay.exp(), frequency)
        exponent = poles * step.exp()
        return torch.complex(out[0], out[1]) * torch.expm1(exponent) / poles, exponent

    def _finished(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        y = F.gelu(y + u * self.skip.to(u.dtype).unsqueeze(-1))
        return y.unflatten(1, (self.slot.heads, -1)).transpose(2, 3).to(v.dtype)

    def _observed(self, x: tuple[Tensor, Tensor], way: int) -> Tensor:
        return 2 * (self.out[0, way] * x[0] - self.out[1, way] * x[1]).sum(-1)
